"""Scoring in a thread of its own: order, retries and failures."""

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from b2diffurl.errors import RewardFailed, UserError
from b2diffurl.rewards import Reward, Term, WeightedSum
from b2diffurl.rewards.scores import to_info
from b2diffurl.training.scorer import ImageScores, Scoring

PROMPTS = ("a cat", "a dog")


def describes(images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Any]]:
    """Return info with the scores, except for a batch of one."""
    scores = brightness(images, prompts)
    return scores, {"seen": [f"{score:g}" for score in scores], "scores": scores} if len(scores) > 1 else {}


def uniform(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def score(reward: Reward, *batches: Tensor, watched: dict[str, Reward] | None = None) -> ImageScores:
    with Scoring(reward, watched=watched or {}, pause_seconds=0.0) as scoring:
        for batch in batches:
            scoring.submit(batch, PROMPTS[: len(batch)], [{}] * len(batch))
        return scoring.result()


def test_scores_are_in_the_order_of_the_uniform() -> None:
    assert score(brightness, uniform(0.5, 0.25), uniform(0.75), uniform(0.0)).rewards.tolist() == [
        0.5,
        0.25,
        0.75,
        0,
    ]


def test_images_are_scored_while_the_caller_continues() -> None:
    started, proceed = threading.Event(), threading.Event()

    def slow(images: Tensor, prompts: Sequence[str]) -> Tensor:
        started.set()
        assert proceed.wait(timeout=20)
        return brightness(images, prompts)

    with Scoring(slow, watched={}) as scoring:
        scoring.submit(uniform(1.0), PROMPTS[:1], [{}])
        assert started.wait(timeout=20)  # it has started while the caller continues
        proceed.set()
        assert scoring.result().rewards.tolist() == [1.0]


def test_scores_have_no_gradient() -> None:
    def differentiable(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return brightness(images, prompts) * torch.ones(1, requires_grad=True)

    assert not score(differentiable, uniform(0.5)).rewards.requires_grad


def test_terms_of_a_sum_and_watched_rewards_are_returned_by_name() -> None:
    def dark(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return -brightness(images, prompts)

    both = WeightedSum((Term(weight=2.0, name="a.py:bright"), Term(name="a.py:dark")), (brightness, dark))
    scores = score(both, uniform(0.5, 0.25), uniform(1.0), watched={"a.py:seen": dark})
    assert scores.rewards.tolist() == [0.5, 0.25, 1.0]
    assert {name: values.tolist() for name, values in scores.terms.items()} == {
        "a.py:bright": [0.5, 0.25, 1.0], "a.py:dark": [-0.5, -0.25, -1.0], "a.py:seen": [-0.5, -0.25, -1.0],
    }  # fmt: skip


@pytest.mark.parametrize(("num_failures", "fails"), [(1, False), (2, False), (3, True)])
def test_a_reward_that_raises_is_called_three_times(num_failures: int, fails: bool) -> None:
    calls = 0

    def shaky(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls <= num_failures:
            raise ConnectionError("gone\n for good")
        return brightness(images, prompts)

    if not fails:
        assert score(shaky, uniform(0.5)).rewards.tolist() == [0.5]
        return
    with pytest.raises(RewardFailed, match=r"^ConnectionError: gone for good \(.*test_scoring\.py, line \d+\)$"):
        score(shaky, uniform(0.5))
    assert calls == 3


@pytest.mark.parametrize("error", [RewardFailed("the server is gone"), UserError("there is no such thing")])
def test_errors_that_retrying_cannot_fix_are_raised_at_once(error: Exception) -> None:
    calls = 0

    def hopeless(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        assert len(images) == len(prompts)
        calls += 1
        raise error

    with pytest.raises(type(error), match=str(error)):
        score(hopeless, uniform(0.5))
    assert calls == 1


def test_after_a_failure_no_more_images_are_accepted() -> None:
    def hopeless(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        raise RewardFailed("the server is gone")

    with Scoring(hopeless, watched={}) as scoring:
        scoring.submit(uniform(0.5), PROMPTS[:1], [{}])
        scoring._batches[0].exception(timeout=20)
        with pytest.raises(RewardFailed, match="the server is gone"):
            scoring.submit(uniform(0.5), PROMPTS[:1], [{}])


def test_a_shape_other_than_one_number_per_image_is_a_failure() -> None:
    with pytest.raises(RewardFailed, match=r"shape \(1,\) for 2 images"):
        score(lambda images, prompts: brightness(images, prompts)[:1], uniform(0.5, 0.5))


def test_info_is_kept_in_order() -> None:
    """Images without info have None; terms and watched rewards are distinguished by name."""
    scores = score(describes, uniform(0.5, 0.25), uniform(1.0), uniform(0.75, 0.125))
    assert scores.info == {
        "seen": ["0.5", "0.25", None, "0.75", "0.125"], "scores": [0.5, 0.25, None, 0.75, 0.125]
    }  # fmt: skip
    both = WeightedSum((Term(name="a"), Term(name="b")), (brightness, describes))
    scores = score(both, uniform(0.5, 0.25), watched={"w": describes})
    assert scores.info["b/seen"] == scores.info["w/seen"] == ["0.5", "0.25"]
    assert set(scores.info) == {"b/seen", "b/scores", "w/seen", "w/scores"}
    assert score(brightness, uniform(0.5)).info == {}


@pytest.mark.parametrize(
    "info",
    [None, 3, "text", ["a", "b"], {"a": ["one"]}, {"a": "of"}, {"a": b"of"}, {"a": 2}, {"a": None},
     {"a": torch.ones(3)}, {"a": torch.tensor(1.0)}],
)  # fmt: skip
def test_info_of_another_form_is_left_out(info: object) -> None:
    assert to_info(info, 2) == {}


def test_info_can_be_written_as_json() -> None:
    converted = to_info({"a": [float("nan"), 1.5], 2: (True, None), "c": [{1}, "x"], "d": np.array([1, 2])}, 2)
    assert converted == {"a": [None, 1.5], "2": [True, None], "c": ["{1}", "x"], "d": [1, 2]}
    assert json.loads(json.dumps(converted, allow_nan=False)) == converted


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_a_failure_that_names_the_image_of_the_round(value: float) -> None:
    calls = 0

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where(images.mean(dim=(1, 2, 3)) > 0.5, value, brightness(images, prompts))

    with pytest.raises(RewardFailed, match=rf"^the reward of image 3 is {value}\.$"):
        score(reward, uniform(0.0, 0.25), uniform(0.5, 0.75))
    assert calls == 2
    with Scoring(reward, watched={}, first_image=16) as scoring:
        scoring.submit(uniform(0.5, 0.75), PROMPTS, [{}, {}])
        with pytest.raises(RewardFailed, match=rf"^the reward of image 17 is {value}\.$"):
            scoring.result()


def test_a_watched_score_may_be_nan_but_not_of_another_shape() -> None:
    def nan(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), float("nan"), dtype=brightness(images, prompts).dtype)

    assert score(brightness, uniform(0.5), watched={"w": nan}).terms["w"].isnan().all()
    with pytest.raises(RewardFailed, match=r"^reward w returned shape \(1, 1\) for 1 images; "):
        score(brightness, uniform(0.5), watched={"w": lambda images, prompts: nan(images, prompts)[:, None]})
