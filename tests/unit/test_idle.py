"""A run that trains nothing warns once, and names the cause."""

import pytest
import torch
from torch import Tensor

from b2diffurl.algorithm.advantage import PromptHistory
from b2diffurl.algorithm.records import Scores
from b2diffurl.algorithm.round import RoundResult, Sampled
from b2diffurl.algorithm.selection import BestWorst
from b2diffurl.algorithm.update import UpdateResult
from b2diffurl.training.idle import IdleWatch, idle_cause

PROMPTS = ("a cat", "a dog")


def result(rewards: list[list[float]], *, selector: BestWorst | None = None, is_updated: bool = False) -> RoundResult:
    """A round with these rewards; its update is empty unless it is said to be there."""
    values = torch.tensor(rewards, dtype=torch.float64)
    advantages: Tensor = PromptHistory().normalize(values, PROMPTS, past=())
    update = UpdateResult(
        num_optimizer_steps=int(is_updated), step_scale=1.0 if is_updated else None, kl_to_old=None, grad_norm=None,
        ratio_max_error=None, learning_rate=1e-4, means={}, num_evaluations=0, num_replayed=0, seconds=0.0,
    )  # fmt: skip
    sampled = Sampled(
        scores=Scores(rewards=values, contrast=torch.ones_like(values)), num_evaluations=0, rollout_seconds=0.0,
        reward_seconds=0.0,
    )  # fmt: skip
    selection = (selector or BestWorst()).select(advantages, PROMPTS)
    return RoundResult(7, 3, 3, PROMPTS, sampled, advantages, selection, update, {})


EQUAL = [[0.5, 0.5], [0.5, 0.5]]
DIFFERENT = [[0.0, 1.0], [0.0, 2.0]]


def test_the_third_round_in_a_row_warns_once() -> None:
    watch = IdleWatch()
    warnings = [watch.warning(result(EQUAL)) for _ in range(6)]
    assert [bool(warning) for warning in warnings] == [False, False, True, False, False, False]
    assert warnings[2] is not None
    assert warnings[2].startswith("nothing was trained in 3 rounds in a row: all rewards of round 7 are 0.5; ")
    assert warnings[2].endswith(".")


def test_an_update_begins_the_count_anew() -> None:
    watch = IdleWatch()
    rounds = [result(EQUAL), result(EQUAL), result(DIFFERENT, is_updated=True), result(EQUAL), result(EQUAL)]
    assert [watch.warning(done) for done in rounds] == [None] * 5
    assert watch.warning(result(EQUAL)) is not None


@pytest.mark.parametrize(
    ("rewards", "selector", "cause"),
    [
        (EQUAL, BestWorst(), "all rewards of round 7 are 0.5"),
        ([[0.5, 0.5], [0.9, 0.9]], BestWorst(), "differ too little within a prompt"),  # ties
        ([[1e4, 1e4 + 1e-3], [1e4, 1e4 + 1e-3]], BestWorst(), "1e+04 to 1e+04|10000 to 10000"),  # a large offset
        (DIFFERENT, BestWorst(pos_threshold=4.0, neg_threshold=-4.0), "advantages of round 7, -1 to 1, are all within"),
        (DIFFERENT, BestWorst(), "no pair was selected"),
    ],
)
def test_the_cause_is_named(rewards: list[list[float]], selector: BestWorst, cause: str) -> None:
    sentence = idle_cause(result(rewards, selector=selector))
    assert any(part in sentence for part in cause.split("|"))
