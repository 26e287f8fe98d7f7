"""Rewards normalized per prompt over a round and the last H, one number after the other (paper, appendix D.1)."""

import math
from collections.abc import Sequence

Round = Sequence[tuple[str, float]]


def advantages(rounds: Sequence[Round], *, num_rounds: int, std_floor: float = 1e-4) -> list[float]:
    """Advantages of the newest round, given (prompt, reward) of every round, the newest last."""
    newest = len(rounds) - 1
    out = []
    for prompt, reward in rounds[newest]:
        known = []
        for index in range(len(rounds)):
            if index >= newest - num_rounds:
                for other_prompt, other_reward in rounds[index]:
                    if other_prompt == prompt:
                        known.append(float(other_reward))
        mean = math.fsum(known) / len(known)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / len(known))
        if len(known) < 2 or std == 0 or std < std_floor * max(abs(value) for value in known):
            out.append(0.0)
            continue
        out.append((float(reward) - mean) / std)
    return out


def clipped(values: Sequence[float], *, max_advantage: float) -> list[float]:
    """The advantages that are trained on, after the selection."""
    out = []
    for value in values:
        if value > max_advantage:
            out.append(max_advantage)
        elif value < -max_advantage:
            out.append(-max_advantage)
        else:
            out.append(value)
    return out


def batch_advantages(rewards: Sequence[float], *, std_floor: float = 1e-4) -> list[float]:
    """(r - mean) / std over the whole round."""
    mean = math.fsum(rewards) / len(rewards)
    return _in_standard_deviations([reward - mean for reward in rewards], std_floor, rewards)


def branch_advantages(rewards: Sequence[float], *, num_branches: int, std_floor: float = 1e-4) -> list[float]:
    """(r - mean of the branch group) / std of these differences over the whole round."""
    differences = []
    for first in range(0, len(rewards), num_branches):
        members = rewards[first : first + num_branches]
        mean = math.fsum(members) / num_branches
        differences += [reward - mean for reward in members]
    return _in_standard_deviations(differences, std_floor, rewards)


def _in_standard_deviations(differences: Sequence[float], std_floor: float, rewards: Sequence[float]) -> list[float]:
    """For differences whose mean is 0."""
    std = math.sqrt(math.fsum(value**2 for value in differences) / len(differences))
    largest = max(abs(reward) for reward in rewards)
    return [0.0 if std == 0 or std < std_floor * largest else value / std for value in differences]
