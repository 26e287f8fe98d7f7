"""Log-density of a Gaussian with independent elements of one variance, one number after the other."""

import math
from collections.abc import Sequence
from typing import Any

Number = Any


def log_prob(x: Sequence[Number], mean: Sequence[Number], var: float, *, reduction: str = "mean") -> Number:
    """Give log N(x; mean, var I), summed over the elements or averaged."""
    total: Number = 0.0
    for value, center in zip(x, mean, strict=True):
        total = total - (value - center) ** 2 / (2 * var) - math.log(math.sqrt(2 * math.pi * var))
    return total if reduction == "sum" else total / len(x)
