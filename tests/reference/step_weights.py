"""The best weights of the steps, found by maximizing the squared signal-to-noise ratio numerically (ours)."""

import math
from collections.abc import Sequence


def even(sensitivity: Sequence[float]) -> list[float]:
    """One over the sensitivity, with mean 1."""
    return _mean_1([1 / k for k in sensitivity])


def probe(sensitivity: Sequence[float], variance: Sequence[float]) -> list[float]:
    """The weights that maximize (sum of w k sqrt(v))^2 / sum of (w k)^2, by coordinate ascent, with mean 1."""
    weights = [1.0] * len(variance)
    for _ in range(2000):
        for t, (k, v) in enumerate(zip(sensitivity, variance, strict=True)):
            signal = _signal(weights, sensitivity, variance) - weights[t] * k * math.sqrt(v)
            noise = _noise(weights, sensitivity) - (weights[t] * k) ** 2
            # d/dw of (signal + w k sqrt(v))^2 / (noise + w^2 k^2) is 0 here.
            weights[t] = math.sqrt(v) * noise / (k * signal) if signal > 0 else 1.0
    return _mean_1(weights)


def _signal(weights: Sequence[float], sensitivity: Sequence[float], variance: Sequence[float]) -> float:
    return math.fsum(w * k * math.sqrt(v) for w, k, v in zip(weights, sensitivity, variance, strict=True))


def _noise(weights: Sequence[float], sensitivity: Sequence[float]) -> float:
    return math.fsum((w * k) ** 2 for w, k in zip(weights, sensitivity, strict=True))


def _mean_1(weights: Sequence[float]) -> list[float]:
    return [w * len(weights) / math.fsum(weights) for w in weights]
