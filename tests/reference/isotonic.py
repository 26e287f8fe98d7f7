"""Isotonic regression by its max-min formula (Robertson, Wright and Dykstra 1988, theorem 1.4.4)."""

import math
from collections.abc import Sequence


def isotonic(values: Sequence[float]) -> list[float]:
    """Value i is the largest over j <= i of the smallest over k >= i of the mean of values j to k."""
    return [
        max(min(math.fsum(values[j : k + 1]) / (k + 1 - j) for k in range(i, len(values))) for j in range(i + 1))
        for i in range(len(values))
    ]
