"""A run refuses contradictory settings when it is created."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.advantage import Batch, Branch, PromptHistory
from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.objectives import DDPO, DPO, DPOK, CustomObjective, PolicyGradient
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Backward, Full, Table
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.trust_region import TrustRegion
from b2diffurl.algorithm.update import Optimization
from b2diffurl.errors import UserError
from b2diffurl.models import LoRA
from b2diffurl.run import recipes
from b2diffurl.run.recipes import RECIPES, emoji_b2_paper, recipe
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Logging, Run, Sampler


def refusal(changes: dict[str, Any]) -> str:
    """The error message for the quickstart with these changes."""
    with pytest.raises(UserError) as refused:
        replace(emoji_b2_paper(), **changes)
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert "; " in message  # how to fix it
    return message


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_knows_its_name(name: str) -> None:
    assert recipe(name).recipe == name


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UserError, match=r"recipe is 'nope'; give a run\.toml or one of: emoji-quickstart, "):
        recipe("nope")


@pytest.mark.parametrize(("num_branches", "num_trunks"), [(1, 256), (4, 64), (256, 1)])
def test_trunks_are_queries_over_branches(num_branches: int, num_trunks: int) -> None:
    run = replace(emoji_b2_paper(), rollout=Rollout(num_branches=num_branches), selection=All())
    assert run.num_trunks == num_trunks


def test_best_and_worst_of_one_branch_is_refused() -> None:
    message = refusal({"rollout": Rollout(num_branches=1), "selection": BestWorst()})
    assert message.startswith("rollout.num_branches is 1 but selection best-worst needs at least 2; ")


def test_an_interval_longer_than_the_chain_is_refused() -> None:
    message = refusal({"sampler": Sampler(num_inference_steps=10), "schedule": Backward(tau_first=11)})
    assert message.startswith("schedule.tau_first is 11 but sampler.num_inference_steps is 10; ")
    replace(emoji_b2_paper(), sampler=Sampler(num_inference_steps=10), schedule=Backward(tau_first=10))
    replace(emoji_b2_paper(), sampler=Sampler(num_inference_steps=1), schedule=Full())


def test_queries_that_branches_do_not_divide_are_refused() -> None:
    message = refusal({"reward_queries_per_round": 10, "rollout": Rollout(num_branches=4)})
    assert message.startswith("reward_queries_per_round is 10, which rollout.num_branches = 4 does not divide; ")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_rounds": 0}, "num_rounds is 0"),
        ({"reward_queries_per_round": 0}, "reward_queries_per_round is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any], field: str) -> None:
    assert refusal(changes).startswith(field)


@pytest.mark.parametrize(
    ("cls", "table", "field", "value"),
    [
        (Sampler, "sampler", "num_inference_steps", 0),
        (Sampler, "sampler", "eta", 0.0),
        (Sampler, "sampler", "eta", -1.0),
        (Sampler, "sampler", "guidance_scale", 0.5),
        (Rollout, "rollout", "num_branches", 0),
        (Rollout, "rollout", "chunk_size", 0),
        (Logging, "logging", "checkpoint_every_rounds", 0),
        (Logging, "logging", "num_checkpoints", 0),
        (Logging, "logging", "samples_every_rounds", 0),
        (Logging, "logging", "num_samples", 0),
        (Logging, "logging", "num_evaluation_images", -1),
        (LoRA, "lora", "rank", 0),
        (LoRA, "lora", "alpha", 0.0),
        (Optimization, "optimization", "learning_rate", 0.0),
        (Optimization, "optimization", "max_grad_norm", 0.0),
        (Optimization, "optimization", "warmup_rounds", -1),
        (Optimization, "optimization", "num_inner_epochs", 0),
        (Optimization, "optimization", "num_minibatches", 0),
        (Optimization, "optimization", "micro_batch_size", 0),
        (TrustRegion, "trust_region", "max_kl", 0.0),
        (TrustRegion, "trust_region", "max_kl", float("nan")),
        (BestWorst, "selection", "pos_threshold", -0.5),
        (BestWorst, "selection", "neg_threshold", 0.5),
    ],
)
def test_settings_out_of_range_are_refused(cls: type[Any], table: str, field: str, value: float) -> None:
    with pytest.raises(UserError) as refused:
        cls(**{field: value})
    message = str(refused.value)
    assert message.startswith(f"{table}.{field} is {value}")
    assert "; give " in message or ": they have no log-prob to train; give " in message


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (Sampler, "guidance_scale", float("nan")),
        (Sampler, "guidance_scale", float("inf")),
        (Sampler, "eta", float("inf")),
        (Optimization, "learning_rate", float("inf")),
        (Optimization, "learning_rate", 1e300),
        (Optimization, "weight_decay", -1.0),
        (Optimization, "weight_decay", float("nan")),
        (Optimization, "betas", (0.9, 1.0)),
    ],
)
def test_settings_that_no_run_can_use_are_refused(cls: type[Any], field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        cls(**{field: value})


def test_an_adapter_on_no_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"^lora\.target_modules is empty; name at least one layer"):
        LoRA(target_modules=())


def test_deterministic_steps_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="no log-prob to train"):
        Sampler(eta=0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_everything_that_a_recipe_names_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a prompts.txt, for those that train on the user's own."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat\na dog\na cow\na bear\na fox\n", encoding="utf-8")
    run = recipe(name)
    resolve(replace(run, prompts=run.prompts or "prompts.txt", reward=run.reward or "clip"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "./nowhere"}, "model is './nowhere', which is not a directory; "),
        ({"prompts": "nowhere.txt"}, "prompts is 'nowhere.txt', which is neither a file nor a named list; "),
        ({"reward": "beauty"}, "reward is 'beauty'; "),
        ({"reward": "nowhere.at_all:score"}, "there is no module 'nowhere'; "),
        ({"reward": "math:nope"}, "module math has no function 'nope'."),
    ],
)
def test_what_cannot_be_found_is_refused_before_a_model_is_loaded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(replace(emoji_b2_paper(), **changes))
    assert message in str(refused.value)


def test_a_reward_from_python_needs_no_name(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n", encoding="utf-8")
    run = Run(model="emoji", reward="mine", prompts=str(prompts), num_rounds=1, reward_queries_per_round=4)
    resolve(run, own_reward=True)


# Combinations of objectives and strategies


ONE_STEP = Optimization(num_inner_epochs=1, num_minibatches=1)
UNBRANCHED = {"rollout": Rollout(num_branches=1), "selection": All()}


class OnPolicy(Objective):
    """A user's objective that is on-policy."""

    needs = Needs(on_policy=True)


class OnPolicyWithLoss(OnPolicy):
    def loss(self, batch: Any) -> Any:
        return -batch.log_prob


@pytest.mark.parametrize("objective", [DDPO(), PolicyGradient(), DPOK(), DPO()])
@pytest.mark.parametrize("schedule", [Full(), Backward(), Table(rows=((1, 14), (3, 20))), Adaptive()])
@pytest.mark.parametrize("selection", [BestWorst(), All()])
@pytest.mark.parametrize("num_branches", [4, 1])
def test_any_combination_is_a_run(objective: Any, schedule: Any, selection: Any, num_branches: int) -> None:
    """But for the two strategies that live on branch groups."""
    changes = {
        "rollout": Rollout(num_branches=num_branches), "objective": objective, "schedule": schedule,
        "selection": selection, "optimization": ONE_STEP,
    }  # fmt: skip
    if num_branches == 1 and (isinstance(schedule, Adaptive) or isinstance(selection, BestWorst)):
        assert refusal(changes).startswith("rollout.num_branches is 1 but s")
    else:
        resolve(replace(emoji_b2_paper(), **changes))


@pytest.mark.parametrize(
    "objective",
    [PolicyGradient(), DPOK(), CustomObjective(name=f"{__name__}:OnPolicyWithLoss")],
)
@pytest.mark.parametrize(("num_inner_epochs", "num_minibatches"), [(2, 1), (1, 2), (2, 4)])
def test_two_updates_of_an_on_policy_objective_are_refused(
    objective: Any, num_inner_epochs: int, num_minibatches: int
) -> None:
    optimization = Optimization(num_inner_epochs=num_inner_epochs, num_minibatches=num_minibatches)
    message = refusal({"objective": objective, "optimization": optimization})
    assert message.startswith(
        f"objective {objective.use} is on-policy, one optimizer step per round, but optimization."
    )
    assert f"num_inner_epochs x num_minibatches is {num_inner_epochs * num_minibatches}; set both to 1" in message


def test_a_warm_up_that_never_ends_is_refused() -> None:
    message = refusal({"num_rounds": 3, "optimization": Optimization(warmup_rounds=3)})
    assert message == ("optimization.warmup_rounds is 3 but num_rounds is 3; give fewer warm-up rounds than rounds.")
    replace(emoji_b2_paper(), num_rounds=3, optimization=Optimization(warmup_rounds=2))


@pytest.mark.parametrize("objective", [DDPO(), DPO()])
def test_other_objectives_may_update_more_than_once(objective: Any) -> None:
    replace(emoji_b2_paper(), objective=objective, optimization=Optimization(num_inner_epochs=2, num_minibatches=4))


@pytest.mark.parametrize("reward_queries_per_round", [8, 45])
def test_pairs_of_a_prompt_that_no_round_has_twice_are_refused(reward_queries_per_round: int) -> None:
    changes: dict[str, Any] = UNBRANCHED | {"objective": DPO(), "reward_queries_per_round": reward_queries_per_round}
    with pytest.raises(UserError) as refused:
        resolve(replace(emoji_b2_paper(), **changes))
    message = str(refused.value)
    assert message.startswith("objective dpo without branching needs pairs of one prompt, but a round of ")
    assert f"{reward_queries_per_round} reward queries has each of 45 prompts at most once; raise " in message
    assert "\n" not in message


def test_pairs_that_a_round_can_have_are_welcome() -> None:
    resolve(replace(emoji_b2_paper(), **UNBRANCHED, objective=DPO(), reward_queries_per_round=46))
    resolve(replace(emoji_b2_paper(), **UNBRANCHED, objective=DDPO(), reward_queries_per_round=8))
    resolve(replace(emoji_b2_paper(), objective=DPO(), reward_queries_per_round=8))


def test_advantages_of_branch_groups_of_one_are_refused() -> None:
    message = refusal(UNBRANCHED | {"advantage": Branch()})
    assert message.startswith("rollout.num_branches is 1 but advantage branch needs at least 2; ")
    assert "advantage:prompt-history" in message
    replace(emoji_b2_paper(), **UNBRANCHED, advantage=Batch())


def test_an_adaptive_schedule_without_branch_groups_is_refused() -> None:
    message = refusal(UNBRANCHED | {"schedule": Adaptive()})
    assert message.startswith("rollout.num_branches is 1 but schedule adaptive depends on the pairs of branch groups; ")
    assert "schedule:backward" in message


@pytest.mark.parametrize(
    ("schedule", "field"), [(Adaptive(tau_first=11), "tau_first"), (Table(rows=((1, 5), (2, 11))), "rows")]
)
def test_every_schedule_that_is_longer_than_the_chain_is_refused(schedule: Any, field: str) -> None:
    message = refusal({"sampler": Sampler(num_inference_steps=10), "schedule": schedule})
    assert message.startswith(f"schedule.{field} is 11 but sampler.num_inference_steps is 10; ")


@pytest.mark.parametrize(
    ("limit", "pos", "neg", "name"),
    [
        (5.0, 6.0, -6.0, "pos_threshold"),
        (0.3, 0.5, -0.2, "pos_threshold"),
        (0.4, 0.2, -0.5, "neg_threshold"),
    ],
)
def test_thresholds_beyond_the_clip_are_refused(limit: float, pos: float, neg: float, name: str) -> None:
    selection = BestWorst(pos_threshold=pos, neg_threshold=neg)
    with pytest.raises(UserError, match=rf"^selection\.{name} is .* but advantage\.max_advantage is {limit}, .*\.$"):
        replace(recipe("emoji-b2-paper"), advantage=PromptHistory(max_advantage=limit), selection=selection)


def test_the_recipes_cite_the_reference_as_it_is() -> None:
    """Its public code has 5 branches (SplitTime), 256 trunks and so 1,280 scored images a round."""
    text = " ".join(str(recipes.__doc__).split())
    assert "samples 256 trunks with 5 branches, 1,280 scored images per round" in text
    run = recipe("paper-template1-clip")
    assert (run.rollout.num_branches, run.reward_queries_per_round, run.num_rounds) == (4, 256, 100)
