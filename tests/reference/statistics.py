"""Confidence intervals, literally: the density of Student's distribution summed, every resample one after the other."""

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def t_probability(t: float, *, degrees: int, num_slices: int = 20_000) -> float:
    """P(|T| <= t): midpoint rule on the density Gamma((n+1)/2) / (sqrt(n pi) Gamma(n/2)) (1 + x^2/n)^(-(n+1)/2)."""
    log_factor = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    width, total = t / num_slices, 0.0
    for i in range(num_slices):
        x = (i + 0.5) * width
        total += math.exp(log_factor - (degrees + 1) / 2 * math.log1p(x * x / degrees)) * width
    return 2 * total


def resample(values: Sequence[T], groups: Sequence[int], prompts: Sequence[int]) -> tuple[list[T], list[int]]:
    """The values of the images of some prompts, and their new groups: each prompt of the list is a group of its own."""
    chosen: list[T] = []
    renumbered: list[int] = []
    for number, prompt in enumerate(prompts):
        for value, group in zip(values, groups, strict=True):
            if group == prompt:
                chosen.append(value)
                renumbered.append(number)
    return chosen, renumbered
