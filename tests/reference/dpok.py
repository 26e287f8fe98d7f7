"""DPOK's loss of one step, the policy gradient's and beta KL(pi || pi_ref), one number after the other.

A number is a float, or a scalar tensor where a test wants a gradient.
"""

from collections.abc import Sequence
from typing import Any

Number = Any


def kl(mean: Sequence[Number], reference_mean: Sequence[float], var: float, *, reduction: str = "sum") -> Number:
    """|mean - mean_ref|^2 / (2 var), summed over the elements (nats) or averaged."""
    total: Number = 0.0
    for here, there in zip(mean, reference_mean, strict=True):
        total = total + (here - there) ** 2 / (2 * var)
    return total if reduction == "sum" else total / len(mean)


def loss(log_prob: float, advantage: float, kl: float, *, beta: float) -> float:
    """-log pi A + beta KL."""
    return -log_prob * advantage + beta * kl


def gradient(advantage: float, *, beta: float) -> tuple[float, float]:
    """Derivatives of the loss by `log_prob` and by `kl`."""
    return -advantage, beta
