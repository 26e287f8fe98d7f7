"""Interval lengths, in whole numbers and fractions (paper, section 3.2; the reference run's formula)."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor


def interval_length(i: int, *, num_rounds: int, num_inference_steps: int, tau_first: int, tau_max: int = 0) -> int:
    """tau_i = tau_first + floor(i (T - tau_first + 1) / S), at most T, and at most tau_max unless that is 0."""
    tau = tau_first + floor(Fraction(i * (num_inference_steps - tau_first + 1), num_rounds))
    if tau > num_inference_steps:
        tau = num_inference_steps
    if tau_max != 0 and tau > tau_max:
        tau = tau_max
    return tau


def trained_steps(tau: int, *, num_inference_steps: int, tau_last: int) -> list[int]:
    """The steps that are trained, counted from 0 at x_T: the last tau, without the last tau_last of them."""
    steps = list(range(num_inference_steps))[-tau:]
    for _ in range(tau_last):
        steps.pop()
    return steps


def table_length(i: int, rows: Sequence[tuple[int, int]]) -> int:
    """Length of round i, counted from 0, going through the rounds one by one."""
    length = 0
    for number in range(1, i + 2):
        for first, row_length in rows:
            if first == number:
                length = row_length
    return length


def adaptive_lengths(
    pair_fractions: Sequence[Fraction],
    *,
    num_rounds: int,
    num_inference_steps: int,
    tau_first: int,
    window: int,
    least_pair_fraction: Fraction,
    tau_max: int = 0,
) -> list[tuple[int, str]]:
    """Length of each round, and what is found after it: one pair fraction a round."""
    out: list[tuple[int, str]] = []
    length = tau_first
    here: list[Fraction] = []  # pair fractions at this length
    for i, fraction in enumerate(pair_fractions):
        here.append(fraction)
        pace = interval_length(
            i + 1,
            num_rounds=num_rounds,
            num_inference_steps=num_inference_steps,
            tau_first=tau_first,
            tau_max=tau_max,
        )
        found = "none"
        if length < (num_inference_steps if tau_max == 0 else tau_max):
            if pace > length:
                found = "scheduled"
            newest = here[-window:]
            if sum(newest, Fraction(0)) / len(newest) < least_pair_fraction:
                found = "no_pairs"
                for earlier in here:
                    if earlier >= least_pair_fraction:
                        found = "saturated"
        out.append((length, found))
        longer = max(length + (found in ("saturated", "no_pairs")), pace)
        if longer > length:
            length, here = longer, []
    return out


def middles(num_steps: int, *, num_parts: int) -> list[int]:
    """The step in which the middle of each of num_parts equal parts of the steps lies."""
    part = Fraction(num_steps, num_parts)
    return [
        step for i in range(num_parts) for step in range(num_steps) if step <= (i + Fraction(1, 2)) * part < step + 1
    ]
