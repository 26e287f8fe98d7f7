"""How far the mean reward may fall before a run counts as collapsed, one number after the other."""

import math
from collections.abc import Sequence

STANDARD_ERRORS = 4.5
FEW = 30


def allowed_drop(rounds: Sequence[Sequence[Sequence[float]]], *, max_reward_drop: float) -> float:
    """The allowed fall of the last of the rounds below the best one before, given rewards: round, trunk, member."""
    trunk_squares, trunk_freedom, image_squares, image_freedom = 0.0, 0, 0.0, 0
    best, best_error = -math.inf, 0.0
    for trunks in rounds[:-1]:
        rewards = [reward for members in trunks for reward in members]
        mean = math.fsum(rewards) / len(rewards)
        means = [math.fsum(members) / len(members) for members in trunks]
        own = math.fsum((value - mean) ** 2 for value in means)
        trunk_squares += own
        trunk_freedom += len(trunks) - 1
        image_squares += math.fsum((reward - mean) ** 2 for reward in rewards)
        image_freedom += len(rewards) - 1
        if mean > best:
            best, best_error = mean, math.sqrt(own / (len(trunks) - 1)) / math.sqrt(len(trunks))
    if trunk_squares == 0:
        return math.inf
    if trunk_freedom < FEW:
        means = [math.fsum(members) / len(members) for members in rounds[-1]]
        trunk_squares += math.fsum((value - math.fsum(means) / len(means)) ** 2 for value in means)
        trunk_freedom += len(means) - 1
    error = math.sqrt(trunk_squares / trunk_freedom) / math.sqrt(len(rounds[-1]))
    of_difference = math.sqrt(error**2 + max(error, best_error) ** 2)
    scaled = STANDARD_ERRORS * (8 * trunk_freedom + 3) / (8 * trunk_freedom + 1)
    student = math.sqrt(trunk_freedom * (math.exp(scaled**2 / trunk_freedom) - 1))
    return max(max_reward_drop * math.sqrt(image_squares / image_freedom), student * of_difference)
