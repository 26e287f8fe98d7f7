"""DPO's loss of one step of a pair, -log sigmoid(beta [log pi/pi_ref of the better - of the worse]), and its slopes."""

import math


def margin(better: float, worse: float, reference_better: float, reference_worse: float, *, beta: float) -> float:
    """Beta [(log pi/pi_ref)(better) - (log pi/pi_ref)(worse)]."""
    return beta * ((better - reference_better) - (worse - reference_worse))


def loss(better: float, worse: float, reference_better: float, reference_worse: float, *, beta: float) -> float:
    """-log sigmoid(m) = log(1 + exp(-m)); for m < 0 as -m + log(1 + exp(m)), which does not overflow."""
    m = margin(better, worse, reference_better, reference_worse, beta=beta)
    if m >= 0:
        return math.log1p(math.exp(-m))
    return -m + math.log1p(math.exp(m))


def gradient(
    better: float, worse: float, reference_better: float, reference_worse: float, *, beta: float
) -> tuple[float, float]:
    """Derivatives of the loss by `better` and by `worse`: -beta sigmoid(-m) and its opposite."""
    m = margin(better, worse, reference_better, reference_worse, beta=beta)
    slope = beta * (1 / (1 + math.exp(m)) if m < 0 else math.exp(-m) / (1 + math.exp(-m)))
    return -slope, slope
