"""From names to checked objects, once per run: the model's source, the prompts, the reward terms and the judge.

Nothing heavy is loaded here. Code that receives a `ResolvedRun` parses none of its settings again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from b2diffurl.algorithm.randomness import held_out_rng
from b2diffurl.emoji import EMBEDDED, is_embedded
from b2diffurl.errors import UserError
from b2diffurl.evaluation.judges import JudgeChoice, choose_judge
from b2diffurl.models import AdapterFile, ModelSource
from b2diffurl.prompts.lists import PromptList, load_prompt_list, split_prompts
from b2diffurl.rewards import RewardSettings, check_reward, check_reward_prompts, check_watched, parse_reward
from b2diffurl.rewards.spec import Term, parse_watched
from b2diffurl.run.settings import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedRun:
    """A run whose names have been found and checked.

    Attributes:
        run: the settings.
        model: the model, not loaded.
        prompt_list: all prompts of `run.prompts`, with their metadata.
        train_prompts: the prompts that are trained on.
        held_out_prompts: the prompts that are only evaluated.
        reward_terms: terms of the reward; none if the reward is given from Python.
        watched_terms: rewards that are logged and not trained on.
        judge: what evaluates images.
        sample_prompts: prompts of the preview images, if they are not training prompts.
        initial_adapter: the adapter that training starts from; None for a new one.
    """

    run: Run
    model: ModelSource
    prompt_list: PromptList
    train_prompts: tuple[str, ...]
    held_out_prompts: tuple[str, ...]
    reward_terms: tuple[Term, ...]
    watched_terms: tuple[Term, ...]
    judge: JudgeChoice
    sample_prompts: tuple[str, ...] = ()
    initial_adapter: AdapterFile | None = None

    @property
    def lacks_judge(self) -> bool:
        """Whether no judge fits the run although its settings do not turn evaluation off."""
        return self.judge.kind == "none" and self.run.judge != "none"

    def check_prompt_lengths(self) -> None:
        """Refuse prompts that a tokenizer of the model would truncate; reads the tokenizers, which may download them.

        Raises:
            UserError: a prompt to train on, to evaluate or to sample is too long, or the tokenizers cannot be read.
        """
        from b2diffurl.models.text import check_prompts  # imports transformers

        check_prompts(self.model.tokenizers, [*self.train_prompts, *self.held_out_prompts, *self.sample_prompts])


def resolve(run: Run, *, own_reward: bool = False, own_prompts: PromptList | None = None) -> ResolvedRun:
    """Find and check everything that a run names, without loading a model.

    Args:
        run: the settings.
        own_reward: whether the reward is given from Python, so that `run.reward` is not used.
        own_prompts: prompts from Python, used instead of reading `run.prompts`.

    Raises:
        UserError: the model, the prompts, the reward, the judge or the adapter to start from cannot be found or do not
            fit together, or a schedule from user code gives an interval that the chain does not have.
    """
    _check_given(run, own_reward=own_reward)
    model = ModelSource(run.model)
    model.check(
        num_inference_steps=run.sampler.num_inference_steps,
        eta=run.sampler.eta,
        interval_length=run.intervals()[0].length,
        lora=run.lora,
    )
    initial_adapter = AdapterFile.of(Path(run.lora.init)) if run.lora.init else None
    if initial_adapter is not None:
        initial_adapter.check(run.lora)
    prompt_list = load_prompt_list(run.prompts) if own_prompts is None else own_prompts
    own_samples = run.logging.sample_prompts
    train, held_out = split_prompts(
        prompt_list.prompts,
        held_out_fraction=run.held_out_fraction,
        held_out_prompts=run.held_out_prompts,
        rng=held_out_rng(run.seed),
    )
    _check_pairs(run, num_prompts=len(train))
    if not own_reward:
        check_reward(run.reward, RewardSettings.of(run))
    check_watched(run.watch, RewardSettings.of(run))
    reward_terms, watched_terms = () if own_reward else parse_reward(run.reward), parse_watched(run.watch)
    check_reward_prompts([*reward_terms, *watched_terms], [*train, *held_out])
    _check_emoji(run, reward_terms, watched_terms)
    duplicates = {term.name for term in reward_terms} & {term.name for term in watched_terms}
    if duplicates:
        raise UserError(
            f"watch holds {min(duplicates)!r}, which is a term of the reward and always logged; remove it from watch."
        )
    return ResolvedRun(
        run=run,
        model=model,
        prompt_list=prompt_list,
        train_prompts=train,
        held_out_prompts=held_out,
        reward_terms=reward_terms,
        watched_terms=watched_terms,
        judge=choose_judge(
            run.judge, model=run.model, prompts=[*train, *held_out], reward="" if own_reward else run.reward
        ),
        sample_prompts=load_prompt_list(own_samples, setting="logging.sample_prompts").prompts if own_samples else (),
        initial_adapter=initial_adapter,
    )


def _check_given(run: Run, *, own_reward: bool) -> None:
    """Refuse a run whose recipe leaves prompts or reward to the user, who has not given them."""
    if not run.prompts:
        raise UserError(
            f"prompts is missing, which recipe {run.recipe} leaves to you; give --prompts FILE with one prompt per "
            "line, or a named list such as template1-train."
        )
    if not run.reward and not own_reward:
        raise UserError(
            f"reward is missing, which recipe {run.recipe} leaves to you; give --reward NAME, such as clip, pickscore "
            "or my_reward.py:score."
        )


def _check_emoji(run: Run, reward_terms: Sequence[Term], watched_terms: Sequence[Term]) -> None:
    """Refuse an embedded reward for another model: it was trained on the images of its own model only."""
    names = {
        "reward": [term.name for term in reward_terms],
        "watch": [term.name for term in watched_terms],
        "judge": [run.judge],
    }
    for setting, given in names.items():
        for kind, name in product(("clip", "bert"), EMBEDDED):
            if f"{kind}:{name}" not in given or run.model == name:
                continue
            other = f"{kind}:{run.model}" if is_embedded(run.model) else f"{kind}, and begin with recipe sd15 or sdxl"
            raise UserError(
                f"{setting} has {kind}:{name}, which knows only the images of the embedded model {name}, but model is "
                f"{run.model!r}; give another {setting}, such as {other}."
            )


def _check_pairs(run: Run, *, num_prompts: int) -> None:
    """Refuse an objective on pairs in a run whose rounds have none."""
    if run.objective.needs.pairs and run.rollout.num_branches == 1 and run.reward_queries_per_round <= num_prompts:
        raise UserError(
            f"objective {run.objective.use} without branching needs pairs of one prompt, but a round of "
            f"{run.reward_queries_per_round} reward queries has each of {num_prompts} prompts at most once; "
            "raise reward_queries_per_round or rollout.num_branches."
        )
