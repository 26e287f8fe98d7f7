"""Backward progressive training, in whole numbers (paper, section 3.2; the reference run's formula)."""

from fractions import Fraction
from math import floor


def interval_length(i: int, *, num_rounds: int, num_inference_steps: int, tau_first: int) -> int:
    """tau_i = tau_first + floor(i (T - tau_first + 1) / S), at most T."""
    tau = tau_first + floor(Fraction(i * (num_inference_steps - tau_first + 1), num_rounds))
    if tau > num_inference_steps:
        return num_inference_steps
    return tau
