"""A run: everything that decides what is trained, and how. One object, one TOML file.

The nested tables are the rooms' own settings; only what several rooms share stands here.
"""

import math
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.advantage import Batch, Branch, PromptHistory
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, Own, PolicyGradient
from b2diffurl.algorithm.schedule import Backward, Full, Table
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.config import settings
from b2diffurl.diffusion.gaussian import LogProbReduction
from b2diffurl.errors import UserError
from b2diffurl.evaluation.judges import check_judge, choose_judge
from b2diffurl.models import LoRA, Memory, resolve_model
from b2diffurl.prompts.lists import load_prompts, split_prompts
from b2diffurl.rewards import check_reward, check_watched, parse_reward
from b2diffurl.rewards.bert.reward import BertSettings
from b2diffurl.rewards.remote.client import RemoteSettings


@settings
class Sampler:
    """How pictures are sampled, in training and in evaluation alike.

    Attributes:
        num_inference_steps: T, denoising steps.
        eta: weight of the noise of each DDIM step, above 0 and at most 1, the paper's.
        guidance_scale: of classifier-free guidance; 1 is none.
        negative_prompt: what guidance leads away from; "" is nothing in particular.
    """

    num_inference_steps: int = 20
    eta: float = 1.0
    guidance_scale: float = 5.0
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise UserError(f"sampler.num_inference_steps is {self.num_inference_steps}; give 1 or more.")
        if not self.eta > 0:
            raise UserError(
                f"sampler.eta is {self.eta}, which makes steps deterministic: they have no log-prob to train; give 1."
            )
        if self.eta > 1:
            raise UserError(f"sampler.eta is {self.eta}, more noise than a DDIM step can hold; give 1.")
        if not 1 <= self.guidance_scale < math.inf:
            raise UserError(f"sampler.guidance_scale is {self.guidance_scale}; give 1 (no guidance) or more.")
        if self.negative_prompt and self.guidance_scale == 1:
            raise UserError(
                f"sampler.negative_prompt is {self.negative_prompt!r}, which guidance 1 does not look at; "
                "give a guidance_scale above 1, or no negative prompt."
            )


@settings
class Branching:
    """How trajectories are sampled.

    Attributes:
        num_branches: K, trajectories that leave one trunk; 1 is no branching.
        chunk_size: most trajectories that are sampled at once; changes memory and speed, results by rounding only.
        log_prob_reduction: "mean" over a latent's elements (the reference's unit) or "sum" (nats, in which float32's
            rounding is as many times larger).
    """

    num_branches: int = 4
    chunk_size: int = 64
    log_prob_reduction: LogProbReduction = "mean"

    def __post_init__(self) -> None:
        for name in ("num_branches", "chunk_size"):
            if getattr(self, name) < 1:
                raise UserError(f"rollout.{name} is {getattr(self, name)}; give 1 or more.")


@settings
class Logging:
    """What a run keeps, and how often.

    Attributes:
        checkpoint_every_rounds: rounds between checkpoints.
        num_checkpoints: newest checkpoints that are kept.
        samples_every_rounds: rounds between sample pictures; they are also made before and after.
        num_samples: sample pictures each time, of the first prompts, always from the same noise.
        num_evaluation_images: pictures that are judged before and after training; 0 for none.
        evaluate_every_rounds: rounds between evaluations on the way; 0 for none.
        kl_to_reference: log the exact KL to the reference under every objective: one more forward pass a step, without
            gradient. DPOK and DPO need that pass anyway and always log it.
    """

    checkpoint_every_rounds: int = 1
    num_checkpoints: int = 2
    samples_every_rounds: int = 10
    num_samples: int = 16
    num_evaluation_images: int = 0
    evaluate_every_rounds: int = 0
    kl_to_reference: bool = False

    def __post_init__(self) -> None:
        for name in ("checkpoint_every_rounds", "num_checkpoints", "samples_every_rounds", "num_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"logging.{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("num_evaluation_images", "evaluate_every_rounds"):
            if getattr(self, name) < 0:
                raise UserError(f"logging.{name} is {getattr(self, name)}; give 0 or more.")
        if self.evaluate_every_rounds and not self.num_evaluation_images:
            raise UserError(
                f"logging.evaluate_every_rounds is {self.evaluate_every_rounds} but num_evaluation_images is 0; "
                "give some pictures to evaluate."
            )


def _own_objective(table: object) -> object:
    """`use = "module:Class"` with the class's options beside it, as `Own` spells it."""
    if not isinstance(table, dict):
        return table
    found = cast("dict[str, Any]", table)
    if ":" not in str(found.get("use", "")):
        return found
    return {"use": "own", "name": found["use"], "options": {key: found[key] for key in found if key != "use"}}


@settings
class Run:
    """A complete run.

    Attributes:
        recipe: name of the recipe it came from.
        model: "emoji", a local diffusers directory, a .safetensors checkpoint file, or a hub id.
        reward: "clip" (the paper's ViT-H-14), "clip:MODEL", "clip:emoji", "pickscore", "bert",
            "jpeg-size:compressible", "remote:URL", "module:function" or "file.py:function"; or a sum such as
            "clip + 0.1*my.py:f".
        watch: rewards that are logged and not trained on, named alike: where they fall while the reward rises, it is
            being hacked.
        prompts: a named list such as template1-train, or a .txt, .json or .toml file.
        held_out: prompts that are judged and never trained on: a share of `prompts` such as 0.2, or another list.
        judge: what evaluates images: "auto" (the scene oracle for the embedded model on its prompts, otherwise the CLIP
            of the reward if it has one, otherwise none), "none", "reward", "clip" (the paper's ViT-H-14) or
            "clip:MODEL".
        num_rounds: S, rounds of sampling, scoring, selecting and updating.
        reward_queries_per_round: pictures that are scored each round; a multiple of rollout.num_branches.
        seed: of everything random.
        sampler: how pictures are sampled.
        rollout: branching.
        schedule: which of the last steps each round trains.
        advantage: how rewards are normalized.
        selection: which trajectories are trained on.
        objective: what the optimizer minimises.
        bert: captioner and encoder of the reward "bert".
        remote: how rewards of servers are asked.
        memory: number formats, and what is computed twice to save memory.
        lora: the adapter.
        optimization: AdamW and how a round's data is cut.
        trust_region: how far one round may move the policy.
        collapse: when a run counts as fallen apart.
        logging: what a run keeps, and how often.
    """

    recipe: str = "custom"
    model: str
    reward: str
    watch: tuple[str, ...] = ()
    prompts: str
    held_out: str = ""
    judge: str = "auto"
    num_rounds: int
    reward_queries_per_round: int
    seed: int = 0
    sampler: Sampler = Sampler()
    rollout: Branching = Branching()
    schedule: Annotated[Backward | Full | Table | Adaptive, Field(discriminator="use")] = Backward()
    advantage: Annotated[PromptHistory | Batch | Branch, Field(discriminator="use")] = PromptHistory()
    selection: Annotated[BestWorst | All, Field(discriminator="use")] = BestWorst()
    objective: Annotated[
        DDPO | PolicyGradient | DPOK | DPO | Own, Field(discriminator="use"), BeforeValidator(_own_objective)
    ] = DDPO()
    bert: BertSettings = BertSettings()
    remote: RemoteSettings = RemoteSettings()
    memory: Memory = Memory()
    lora: LoRA = LoRA()
    optimization: Optimization = Optimization()
    trust_region: TrustRegion = TrustRegion()
    collapse: Collapse = Collapse()
    logging: Logging = Logging()

    def __post_init__(self) -> None:
        for name in ("num_rounds", "reward_queries_per_round"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; give 0 or more, below 2**63.")
        if self.reward_queries_per_round % self.rollout.num_branches:
            raise UserError(
                f"reward_queries_per_round is {self.reward_queries_per_round}, which rollout.num_branches = "
                f"{self.rollout.num_branches} does not divide; give a multiple of it."
            )
        num_branches = self.rollout.num_branches
        self.schedule.check(num_inference_steps=self.sampler.num_inference_steps, num_branches=num_branches)
        self.selection.check(num_branches=num_branches)
        self.advantage.check(num_branches=num_branches)
        self._check_on_policy()

    def _check_on_policy(self) -> None:
        updates = self.optimization.num_inner_epochs * self.optimization.num_minibatches
        if self.objective.needs.on_policy and updates > 1:
            raise UserError(
                f"objective {self.objective.use} is on-policy, one optimizer step a round, but optimization."
                f"num_inner_epochs x num_minibatches is {updates}; set both to 1 (and rather take smaller rounds)."
            )

    @property
    def num_trunks(self) -> int:
        """Branch groups of a round."""
        return self.reward_queries_per_round // self.rollout.num_branches


def check_run(run: Run, *, own_reward: bool = False) -> None:
    """Refuse, before any model is loaded, what can be seen to be wrong without one.

    Args:
        run: to look at.
        own_reward: the reward is given from Python, so the run's name of it does not count.

    Raises:
        UserError: the model, the prompts or the reward cannot be found.
    """
    resolve_model(run.model)
    prompts, _ = split_prompts(load_prompts(run.prompts), run.held_out, seed=run.seed)
    num_branches = run.rollout.num_branches
    if run.objective.needs.pairs and num_branches == 1 and run.reward_queries_per_round <= len(prompts):
        raise UserError(
            f"objective {run.objective.use} without branching needs pairs of one prompt, but a round of "
            f"{run.reward_queries_per_round} reward queries has each of {len(prompts)} prompts once at most; "
            "raise reward_queries_per_round or rollout.num_branches."
        )
    if not own_reward:
        check_reward(run.reward, remote=run.remote)
    check_watched(run.watch, remote=run.remote)
    check_judge(run.judge)
    twice = set[str]() if own_reward else {term.name for term in parse_reward(run.reward)} & set(run.watch)
    if twice:
        raise UserError(f"watch holds {min(twice)!r}, which is a part of the reward and logged anyway; leave it out.")


def has_judge(run: Run) -> bool:
    """Whether a judge fits the run, or was switched off on purpose."""
    prompts, held_out = split_prompts(load_prompts(run.prompts), run.held_out, seed=run.seed)
    choice = choose_judge(run.judge, model=run.model, prompts=[*prompts, *held_out], reward=run.reward)
    return choice.kind != "none" or run.judge == "none"
