"""Scoring in a thread of its own: order, patience, and what becomes of failures."""

import json
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards import Term, WeightedSum
from b2diffurl.rewards.info import as_info
from b2diffurl.rewards.interface import Reward
from b2diffurl.training.scorer import Scores, Scoring

PROMPTS = ("a cat", "a dog")


class Describes:
    """A reward that says what it saw, of every picture but those of a batch of one."""

    def __init__(self) -> None:
        self.info: dict[str, object] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = brightness(images, prompts)
        self.info = {"seen": [f"{score:g}" for score in scores], "scores": scores} if len(scores) > 1 else {}
        return scores


def pictures(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def score(reward: Reward, *batches: Tensor, watched: dict[str, Reward] | None = None) -> Scores:
    with Scoring(reward, watched=watched or {}, pause_seconds=0.0) as scoring:
        for batch in batches:
            scoring.submit(batch, PROMPTS[: len(batch)], [{}] * len(batch))
        return scoring.result()


def test_scores_come_in_the_order_of_the_pictures() -> None:
    assert score(brightness, pictures(0.5, 0.25), pictures(0.75), pictures(0.0)).rewards.tolist() == [
        0.5,
        0.25,
        0.75,
        0,
    ]


def test_pictures_are_scored_while_the_caller_goes_on() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(images: Tensor, prompts: Sequence[str]) -> Tensor:
        begun.set()
        assert go_on.wait(timeout=20)
        return brightness(images, prompts)

    with Scoring(slow, watched={}) as scoring:
        scoring.submit(pictures(1.0), PROMPTS[:1], [{}])
        assert begun.wait(timeout=20)  # it has begun, and we are here
        go_on.set()
        assert scoring.result().rewards.tolist() == [1.0]


def test_no_gradient_is_kept() -> None:
    def differentiable(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return brightness(images, prompts) * torch.ones(1, requires_grad=True)

    assert not score(differentiable, pictures(0.5)).rewards.requires_grad


def test_parts_of_a_sum_and_watched_rewards_are_told_by_name() -> None:
    def dark(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return -brightness(images, prompts)

    both = WeightedSum((Term(weight=2.0, name="a.py:bright"), Term(name="a.py:dark")), (brightness, dark))
    found = score(both, pictures(0.5, 0.25), pictures(1.0), watched={"a.py:seen": dark})
    assert found.rewards.tolist() == [0.5, 0.25, 1.0]
    assert {name: values.tolist() for name, values in found.parts.items()} == {
        "a.py:bright": [0.5, 0.25, 1.0], "a.py:dark": [-0.5, -0.25, -1.0], "a.py:seen": [-0.5, -0.25, -1.0],
    }  # fmt: skip


@pytest.mark.parametrize(("num_failures", "fails"), [(1, False), (2, False), (3, True)])
def test_a_reward_that_raises_is_tried_three_times(num_failures: int, fails: bool) -> None:
    calls = 0

    def shaky(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls <= num_failures:
            raise ConnectionError("gone")
        return brightness(images, prompts)

    if not fails:
        assert score(shaky, pictures(0.5)).rewards.tolist() == [0.5]
        return
    with pytest.raises(RewardFailed, match=r"^ConnectionError: gone \(.*test_scoring\.py, line \d+\)$"):
        score(shaky, pictures(0.5))
    assert calls == 3


@pytest.mark.parametrize("error", [RewardFailed("the server is gone"), UserError("there is no such thing")])
def test_what_has_been_patient_or_cannot_be_mended_is_tried_once(error: Exception) -> None:
    calls = 0

    def hopeless(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        assert len(images) == len(prompts)
        calls += 1
        raise error

    with pytest.raises(type(error), match=str(error)):
        score(hopeless, pictures(0.5))
    assert calls == 1


def test_after_a_failure_no_more_pictures_are_taken() -> None:
    def hopeless(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        raise RewardFailed("the server is gone")

    with Scoring(hopeless, watched={}) as scoring:
        scoring.submit(pictures(0.5), PROMPTS[:1], [{}])
        scoring._batches[0].exception(timeout=20)
        with pytest.raises(RewardFailed, match="the server is gone"):
            scoring.submit(pictures(0.5), PROMPTS[:1], [{}])


def test_another_shape_than_one_number_a_picture_is_a_failure() -> None:
    with pytest.raises(RewardFailed, match=r"shape \(1,\) for 2 pictures"):
        score(lambda images, prompts: brightness(images, prompts)[:1], pictures(0.5, 0.5))


def test_what_a_reward_says_of_pictures_is_kept_in_order() -> None:
    """Where it says nothing of a batch there is None; parts and watched rewards are told apart by name."""
    found = score(Describes(), pictures(0.5, 0.25), pictures(1.0), pictures(0.75, 0.125))
    assert found.info == {
        "seen": ["0.5", "0.25", None, "0.75", "0.125"], "scores": [0.5, 0.25, None, 0.75, 0.125]
    }  # fmt: skip
    both = WeightedSum((Term(name="a"), Term(name="b")), (brightness, Describes()))
    found = score(both, pictures(0.5, 0.25), watched={"w": Describes()})
    assert found.info["b/seen"] == found.info["w/seen"] == ["0.5", "0.25"]
    assert set(found.info) == {"b/seen", "b/scores", "w/seen", "w/scores"}
    assert score(brightness, pictures(0.5)).info == {}


@pytest.mark.parametrize(
    "info",
    [None, 3, "text", ["a", "b"], {"a": ["one"]}, {"a": "of"}, {"a": b"of"}, {"a": 2}, {"a": None},
     {"a": torch.ones(3)}, {"a": torch.tensor(1.0)}],
)  # fmt: skip
def test_info_of_another_form_is_left_out(info: object) -> None:
    assert as_info(info, 2) == {}


def test_info_is_what_json_can_hold() -> None:
    told = as_info({"a": [float("nan"), 1.5], 2: (True, None), "c": [{1}, "x"], "d": np.array([1, 2])}, 2)
    assert told == {"a": [None, 1.5], "2": [True, None], "c": ["{1}", "x"], "d": [1, 2]}
    assert json.loads(json.dumps(told, allow_nan=False)) == told
