"""Confidence intervals: tables, closed forms, slow twins, and how often an interval contains the truth."""

import math

import numpy as np
import pytest
import torch

from b2diffurl.errors import UserError
from b2diffurl.evaluation.observations import Observations
from b2diffurl.evaluation.statistics import (
    Interval,
    bootstrap_interval,
    paired_difference,
    resample_prompts,
    t_interval,
    t_quantile,
)
from tests.reference import diversity
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


# Bootstrap over prompts


def test_the_bootstrap_of_a_mean_is_the_t_interval_of_the_prompts_means() -> None:
    """The variance of a resampled mean is s^2 (P - 1) / P^2 for large R; the factor P / (P - 1) makes it s^2 / P."""
    means = np.array([0.1, 0.9, 0.4, 0.5, 0.8])
    resampled = means[resample_prompts(5, num_resamples=40_000)].mean(axis=1)
    found = bootstrap_interval(float(means.mean()), resampled, num_prompts=5)
    expected = t_interval([float(mean) for mean in means])
    assert found.mean == pytest.approx(expected.mean)
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.015)


def test_the_standard_deviation_by_hand() -> None:
    """Two prompts, resamples 0 and 1: s^2 = 1 / 2, factor 2, t of one degree of freedom 12.706."""
    found = bootstrap_interval(0.5, np.array([0.0, 1.0]), num_prompts=2)
    assert (found.low, found.high) == pytest.approx((0.5 - 12.7062, 0.5 + 12.7062), abs=1e-3)


def test_one_prompt_has_no_interval() -> None:
    found = bootstrap_interval(0.5, np.array([0.5, 0.5]), num_prompts=1)
    assert found == Interval(mean=0.5, low=-math.inf, high=math.inf)


def observations() -> Observations:
    """Prompts of 3, 2 and 4 images."""
    generator = torch.Generator().manual_seed(0)
    return Observations(
        groups=torch.tensor([0, 1, 2, 0, 1, 2, 0, 2, 2]),
        scores={"score": torch.rand(9, generator=generator)},
        labels={"label": torch.tensor([0, 1, 2, 1, 0, 0, 1, 1, 2])},
        features=torch.randn(9, 4, generator=generator),
    )


@pytest.mark.parametrize("prompts", [(0, 1, 2), (2, 0, 0), (1, 1, 1)])
def test_every_metric_of_a_resample_equals_the_slow_twin(prompts: tuple[int, ...]) -> None:
    whole = observations()
    (found,) = whole.resampled([prompts])
    groups = whole.groups.tolist()
    assert whole.features is not None
    scores, _ = slow.resample(whole.scores["score"].tolist(), groups, prompts)
    labels, _ = slow.resample(whole.labels["label"].tolist(), groups, prompts)
    features, renumbered = slow.resample(whole.features.double().tolist(), groups, prompts)
    assert found.metric("score") == pytest.approx(sum(scores) / len(scores))
    assert found.metric("label") == pytest.approx(diversity.entropy(labels))
    assert found.metric("inception_score") == pytest.approx(diversity.inception_score(features))
    assert found.metric("vendi_score") == pytest.approx(diversity.vendi_score(features))
    distance = diversity.mean_pairwise_distance(features, renumbered)
    assert found.metric("pairwise_distance") == pytest.approx(distance)


def test_values_by_prompt() -> None:
    whole = observations()
    scores = whole.scores["score"].tolist()
    by_prompt = whole.by_prompt("score")
    assert by_prompt is not None
    assert by_prompt[1] == pytest.approx((scores[1] + scores[4]) / 2)
    assert whole.by_prompt("pairwise_distance") == pytest.approx(
        [whole_group.metric("pairwise_distance") for whole_group in whole.resampled([[0], [1], [2]])]
    )
    assert whole.by_prompt("label") is whole.by_prompt("vendi_score") is None


@pytest.mark.parametrize("resamples_images", [False, True])
def test_nine_of_ten_bootstrap_intervals_contain_the_mean(resamples_images: bool) -> None:
    """12 prompts of 5 images with equal variance within and between: of 400 samples, 90 % within 2.5 standard errors.

    A bootstrap of images takes them for independent, and its intervals are far too short.
    """
    rng, num_inside = np.random.default_rng(1), 0
    for _ in range(400):
        values = rng.normal(size=(12, 1)) + rng.normal(size=(12, 5))
        pool = values.flatten() if resamples_images else values.mean(axis=1)
        resampled = pool[resample_prompts(len(pool), num_resamples=200)].mean(axis=1)
        interval = bootstrap_interval(float(pool.mean()), resampled, num_prompts=len(pool), confidence=0.9)
        num_inside += interval.low <= 0 <= interval.high
    if resamples_images:
        assert num_inside < 300
    else:
        assert num_inside == pytest.approx(360, abs=2.5 * math.sqrt(400 * 0.9 * 0.1))
