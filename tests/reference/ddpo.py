"""DDPO's loss of one step (B²-DiffuRL, equations 4 and 6) and its gradient, case by case."""

import math


def loss(log_prob: float, old_log_prob: float, advantage: float, *, clip_range: float) -> float:
    """-min(rho A, clip(rho, 1 - e, 1 + e) A)."""
    ratio = math.exp(log_prob - old_log_prob)
    clipped = ratio
    if ratio < 1 - clip_range:
        clipped = 1 - clip_range
    if ratio > 1 + clip_range:
        clipped = 1 + clip_range
    if ratio * advantage <= clipped * advantage:
        return -ratio * advantage
    return -clipped * advantage


def gradient(log_prob: float, old_log_prob: float, advantage: float, *, clip_range: float) -> float:
    """Derivative of the loss by `log_prob`: none where the ratio has already gone too far the way A points."""
    ratio = math.exp(log_prob - old_log_prob)
    if advantage > 0 and ratio > 1 + clip_range:
        return 0.0
    if advantage < 0 and ratio < 1 - clip_range:
        return 0.0
    return -ratio * advantage
