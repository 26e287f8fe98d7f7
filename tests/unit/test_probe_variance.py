"""Reward variance by step, and predicted information, on chains where both are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.algorithm.randomness import NoiseKey
from b2diffurl.algorithm.rollout import sample_branches
from b2diffurl.analysis.probe.predict import Prediction, history_places, predict
from b2diffurl.analysis.probe.variance import DecidedVariance, decided_variance, isotonic
from tests.linear_chain import NUM_ELEMENTS, NUM_STEPS, LinearPolicy, bound, coefficients, mean_reward
from tests.reference import isotonic as twin


@given(values=st.lists(st.integers(-5, 5), min_size=1, max_size=7))
def test_isotonic_regression_equals_the_twin(values: list[int]) -> None:
    assert isotonic(np.array(values, dtype=float)).tolist() == pytest.approx(twin.isotonic(values))


def test_the_variance_of_each_step_of_a_linear_chain() -> None:
    """300 trunks of 4 branches; the errors are those of the bootstrap, which must not be too large themselves."""
    rewards = []
    for length in range(1, NUM_STEPS + 1):
        chunks = sample_branches(
            bound(LinearPolicy()), ["a cat"] * 300, interval_length=length, num_branches=4,
            noise=NoiseKey(seed=0, stream=1), chunk_size=1200,
        )  # fmt: skip
        rewards.append(mean_reward(torch.cat([chunk.final_latents for chunk in chunks])))
    within = np.stack([values.var(dim=1).numpy() for values in rewards])
    decided = decided_variance(within, range(1, NUM_STEPS + 1))
    effects, _ = coefficients()
    expected = [effect**2 / NUM_ELEMENTS for effect in effects]
    for value, error, true in zip(decided.per_step, decided.per_step_error, expected, strict=True):
        assert abs(value - true) < 4 * error
        assert error < 0.15 * sum(expected)
    shares = [sum(expected[NUM_STEPS - n :]) / sum(expected) for n in range(NUM_STEPS + 1)]
    assert decided.share_of_last == pytest.approx(shares, abs=0.1)
    assert decided.share_of_last[0] == 0
    assert decided.share_of_last[-1] == 1


def test_steps_between_two_lengths_share_equally() -> None:
    """W(2) = 4 and W(5) = 10 on average."""
    decided = decided_variance(np.array([[3.0, 5.0], [8.0, 12.0]]), (2, 5), num_bootstrap=3)
    assert decided.per_step == pytest.approx((2.0, 2.0, 2.0, 2.0, 2.0))
    assert decided.share_of_last == pytest.approx((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


def test_a_variance_that_falls_with_tau_is_made_monotone() -> None:
    decided = decided_variance(np.array([[1.0], [4.0], [2.0]]), (1, 2, 3), num_bootstrap=2)
    assert decided.per_step == pytest.approx((0.0, 2.0, 1.0))
    assert decided.smoothed == pytest.approx((0.5, 1.25, 1.25))
    assert sum(decided.smoothed) == pytest.approx(3.0)


def test_a_reward_that_never_differs_decides_nothing() -> None:
    decided = decided_variance(np.zeros((2, 3)), (1, 2), num_bootstrap=2)
    assert decided.per_step == (0.0, 0.0)
    assert decided.share_of_last == (0.0, 0.0, 0.0)


# Prediction


def predictions(*, share_of_interval: float) -> dict[tuple[str, str, int], Prediction]:
    """Normal rewards of 1,200 trunks of one prompt: trunk luck of variance 1 - share, branch luck of variance share."""
    generator = torch.Generator().manual_seed(0)
    trunks = math.sqrt(1 - share_of_interval) * torch.randn(1200, 1, generator=generator, dtype=torch.float64)
    rewards = [
        trunks + math.sqrt(share_of_interval) * torch.randn(1200, 5, generator=generator, dtype=torch.float64),
        torch.randn(1200, 5, generator=generator, dtype=torch.float64),
    ]
    decided = DecidedVariance(
        per_step=(1 - share_of_interval, share_of_interval), per_step_error=(0.0, 0.0),
        share_of_last=(0.0, share_of_interval, 1.0), share_of_last_error=(0.0, 0.0, 0.0),
    )  # fmt: skip
    everything = predict(rewards, ["a cat"] * 1200, place=0, lengths=(1, 2), decided=decided)
    return {(one.advantage, one.selection, one.num_branches): one for one in everything}


def test_predicted_information_of_normal_rewards() -> None:
    """All members, centered: (K - 1) / K. All, shrunk: E[A w_i]^2 / (w E[A^2]).

    The credit is A = w_i + t - b (t + mean of w_i), b = t / (t + w / K) of the variances t and w, so that
    E[A w_i] = w (1 - b / K) and E[A^2] = w (1 - 1 / K) + (t + w / K) (1 - b)^2.
    """
    share, num = 0.4, 4
    table = predictions(share_of_interval=share)
    trunk = 1 - share
    shrink = trunk / (trunk + share / num)
    square = share * (1 - 1 / num) + (trunk + share / num) * (1 - shrink) ** 2
    shrunk = share * (1 - shrink / num) ** 2 / square
    assert table["branch", "all", num].information == pytest.approx(0.75, rel=0.08)
    assert table["branch", "all", 2].information == pytest.approx(0.5, rel=0.08)
    assert table["shrunk", "all", num].information == pytest.approx(shrunk, rel=0.08)
    assert table["branch", "all", num].selected_fraction == 1


@pytest.mark.slow
def test_the_history_wastes_information_where_trunks_decide() -> None:
    few, many = (predictions(share_of_interval=share) for share in (0.3, 1.0))
    paper, centered = ("prompt-history", "best-worst", 4), ("branch", "best-worst", 4)
    assert few[paper].information < 0.75 * few[centered].information
    assert many[paper].information > many[centered].information
    assert few[paper].selected_fraction < 0.5


def test_the_history_does_not_know_the_luck_of_the_trunks() -> None:
    """Every trunk has a prompt of its own, and the same luck at every length but the last one."""
    generator = torch.Generator().manual_seed(0)
    trunks = math.sqrt(0.8) * torch.randn(400, 1, generator=generator, dtype=torch.float64)
    rewards = [
        trunks + math.sqrt(0.2) * torch.randn(400, 5, generator=generator, dtype=torch.float64) for _ in range(3)
    ]
    rewards.append(torch.randn(400, 5, generator=generator, dtype=torch.float64))
    decided = DecidedVariance(
        per_step=(0.8, 0.0, 0.0, 0.2), per_step_error=(0.0,) * 4,
        share_of_last=(0.0, 0.2, 0.2, 0.2, 1.0), share_of_last_error=(0.0,) * 5,
    )  # fmt: skip
    assert history_places((1, 2, 3, 4), decided, place=0) == [3]
    assert history_places((1, 2, 3, 4), decided, place=3) == [0, 1, 2]
    table = {
        (one.advantage, one.selection, one.num_branches): one.information
        for one in predict(rewards, [str(i) for i in range(400)], place=0, lengths=(1, 2, 3, 4), decided=decided)
    }
    assert table["prompt-history", "best-worst", 4] < 0.6 * table["branch", "best-worst", 4]
