"""Confidence intervals: of a few paired runs by Student's t distribution, of many images by a bootstrap over prompts.

Runs are paired by seed: the same seed gives two runs the same prompts and the same noise, so the difference within a
seed varies less than either run. With a few seeds the t distribution is the right one if differences are about normal;
it makes the interval wide, as it must be: 12.7 standard errors for two seeds, 4.3 for three, 2.3 for ten.

The images of a prompt resemble each other, so the bootstrap resamples prompts and keeps the images of each together.
It gives a standard error, and the interval is the estimate -+ t standard errors: a resample contains some prompts
twice, which lowers every diversity metric, so percentiles of the resamples would miss the estimate.

Shapes: P prompts, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from b2diffurl.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate and its confidence interval.

    Attributes:
        mean: the estimate, from `low` to `high`.
        low: lower end; minus infinity where one value gives no interval.
        high: upper end; plus infinity where one value gives no interval.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside the interval: the sign of the estimate is decided."""
        return self.low > 0 or self.high < 0


def paired_difference(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Estimate the mean of a - b over pairs, such as seeds, by the t distribution.

    Args:
        a: one value per pair, such as the final accuracy of the runs with seeds 10 to 12.
        b: the values of the same pairs in the same order.
        confidence: probability that the interval contains the mean, between 0 and 1.

    Returns:
        The mean difference and its interval; with one pair the interval is unbounded.

    Raises:
        UserError: the lengths differ, there is no pair, a value is not finite, or the confidence is out of range.

    >>> paired_difference([0.8, 0.9, 0.7], [0.7, 0.7, 0.4]).excludes_zero
    False
    """
    if len(a) != len(b):
        raise UserError(f"{len(a)} values cannot be paired with {len(b)}; give one of each per seed.")
    return t_interval([x - y for x, y in zip(a, b, strict=True)], confidence=confidence)


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Estimate a mean from independent values by the t distribution: mean -+ t std / sqrt(n), n - 1 degrees of freedom.

    Args:
        values: one or more.
        confidence: probability that the interval contains the mean, between 0 and 1.

    Returns:
        The mean and its interval; with one value the interval is unbounded.

    Raises:
        UserError: there is no value, one is not finite, or the confidence is out of range.
    """
    if not values:
        raise UserError("an interval needs values; give one or more.")
    if not all(math.isfinite(value) for value in values):
        raise UserError(f"an interval needs finite values, not {[float(value) for value in values]}; leave out others.")
    quantile = t_quantile(confidence, degrees=max(1, len(values) - 1))
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf)
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def resample_prompts(num_prompts: int, *, num_resamples: int, seed: int = 0) -> Int[np.ndarray, "R P"]:
    """Sample prompts with replacement: the numbers of the P prompts of each of R resamples.

    Metrics of several models on the same resamples are paired, as their noise is.

    Args:
        num_prompts: P, 1 or more.
        num_resamples: R, 2 or more.
        seed: seed of the resamples.
    """
    return np.random.default_rng(seed).integers(num_prompts, size=(num_resamples, num_prompts))


def bootstrap_interval(
    estimate: float, resampled: Float[np.ndarray, " R"], *, num_prompts: int, confidence: float = 0.95
) -> Interval:
    """Estimate a metric's uncertainty over prompts: estimate -+ t s sqrt(P / (P - 1)), P - 1 degrees of freedom.

    s is the standard deviation over the resamples. For a mean over prompts with equally many images, this is the
    `t_interval` of the prompts' means as R grows: the factor undoes the bias of a bootstrap of few prompts. The
    interval is symmetric, so its ends can lie outside the metric's range.

    Args:
        estimate: the metric on all prompts, or the difference of two models' metrics.
        resampled: the same on each of `resample_prompts`.
        num_prompts: P.
        confidence: probability that the interval contains the metric, between 0 and 1.

    Returns:
        The estimate and its interval; with one prompt the interval is unbounded.

    Raises:
        UserError: the confidence is out of range.
    """
    quantile = t_quantile(confidence, degrees=max(1, num_prompts - 1))
    if num_prompts == 1:
        return Interval(mean=estimate, low=-math.inf, high=math.inf)
    half = quantile * float(np.std(resampled, ddof=1)) * math.sqrt(num_prompts / (num_prompts - 1))
    return Interval(mean=estimate, low=estimate - half, high=estimate + half)


@cache
def t_quantile(confidence: float, *, degrees: int) -> float:
    """Return the t for which |T| <= t has probability `confidence`, T of Student's distribution.

    Args:
        confidence: between 0 and 1.
        degrees: degrees of freedom, 1 or more.

    Raises:
        UserError: the confidence is not between 0 and 1.

    >>> [round(t_quantile(0.95, degrees=n), 3) for n in (1, 2, 9)]
    [12.706, 4.303, 2.262]
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}; give a number between 0 and 1.")
    low, high = 0.0, 1.0  # of the fraction of the angle pi / 2; t = sqrt(degrees) tan(angle)
    for _ in range(60):
        middle = (low + high) / 2
        inside = _probability(middle * math.pi / 2, degrees) < confidence
        low, high = (middle, high) if inside else (low, middle)
    return math.sqrt(degrees) * math.tan(low * math.pi / 2)


def _probability(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle)): the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    total, term = 0.0, cosine if degrees % 2 else 1.0
    for k in range(2 + degrees % 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return (angle + sine * total) * 2 / math.pi if degrees % 2 else sine * total
