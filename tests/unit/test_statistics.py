"""Confidence intervals: tables, closed forms, slow twins, and how often an interval contains the truth."""

import math

import numpy as np
import pytest

from b2diffurl.errors import UserError
from b2diffurl.evaluation.statistics import Interval, paired_difference, t_interval, t_quantile
from tests.reference import statistics as slow


@pytest.mark.parametrize(
    ("degrees", "confidence", "expected"),
    [
        (1, 0.95, 12.7062), (2, 0.95, 4.3027), (3, 0.95, 3.1824), (4, 0.95, 2.7764), (9, 0.95, 2.2622),
        (30, 0.95, 2.0423), (2, 0.99, 9.9248), (5, 0.9, 2.0150), (1000, 0.95, 1.9623),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_tables(degrees: int, confidence: float, expected: float) -> None:
    assert t_quantile(confidence, degrees=degrees) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 6, 11])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_density_between_the_quantiles_has_the_probability(degrees: int, confidence: float) -> None:
    quantile = t_quantile(confidence, degrees=degrees)
    assert slow.t_probability(quantile, degrees=degrees) == pytest.approx(confidence, abs=1e-5)


def test_one_degree_of_freedom_is_the_cauchy_distribution() -> None:
    assert t_quantile(0.9, degrees=1) == pytest.approx(math.tan(0.9 * math.pi / 2))


def test_two_degrees_of_freedom_in_closed_form() -> None:
    """P(|T| <= t) = t / sqrt(2 + t^2)."""
    t = t_quantile(0.8, degrees=2)
    assert t / math.sqrt(2 + t**2) == pytest.approx(0.8)


def test_a_paired_difference_by_hand() -> None:
    """Differences .1, .2, .3: mean .2, standard error .1 / sqrt 3."""
    found = paired_difference([0.8, 0.9, 0.7], [0.7, 0.7, 0.4])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert not found.excludes_zero
    assert paired_difference([0.8, 0.9, 0.7], [0.7, 0.7, 0.4], confidence=0.8).excludes_zero


def test_what_the_seeds_share_cancels() -> None:
    shared = np.random.default_rng(0).normal(size=5) * 100
    own = [0.1, 0.2, 0.15, 0.12, 0.13]
    found = paired_difference([s + o for s, o in zip(shared, own, strict=True)], list(shared))
    alone = t_interval(own)
    assert (found.mean, found.low, found.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert found.excludes_zero


def test_the_other_order_is_the_other_sign() -> None:
    a, b = [0.3, 0.5, 0.1, 0.2], [0.2, 0.1, 0.3, 0.0]
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert (forward.mean, forward.low) == pytest.approx((-backward.mean, -backward.high))


def test_one_pair_has_no_interval() -> None:
    assert paired_difference([0.5], [0.25]) == Interval(mean=0.25, low=-math.inf, high=math.inf)
    assert not paired_difference([0.5], [0.25]).excludes_zero


def test_equal_differences_have_an_interval_without_length() -> None:
    assert t_interval([0.25, 0.25, 0.25]) == Interval(mean=0.25, low=0.25, high=0.25)


@pytest.mark.parametrize(
    ("a", "b", "confidence", "message"),
    [
        ([1.0, 2.0], [1.0], 0.95, "2 values cannot be paired with 1"),
        ([], [], 0.95, "an interval needs values"),
        ([1.0, math.nan], [1.0, 1.0], 0.95, "finite values"),
        ([1.0, 2.0], [1.0, 1.0], 1.0, "confidence is 1.0"),
        ([1.0, 2.0], [1.0, 1.0], 95.0, "confidence is 95"),
    ],
)
def test_what_has_no_interval_is_refused(a: list[float], b: list[float], confidence: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        paired_difference(a, b, confidence=confidence)


@pytest.mark.parametrize("num", [2, 3, 10])
def test_nine_of_ten_intervals_contain_the_mean(num: int) -> None:
    """Exact for normal differences: 90 % of 2,000 samples, within 2.5 standard errors of a proportion."""
    samples = np.random.default_rng(num).normal(1.0, 2.0, size=(2000, num))
    intervals = [t_interval([float(value) for value in sample], confidence=0.9) for sample in samples]
    coverage = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
    assert coverage == pytest.approx(0.9, abs=2.5 * math.sqrt(0.9 * 0.1 / 2000))
