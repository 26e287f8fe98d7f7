"""The shrunk baseline, one number after the other, with its analysis of variance as in a textbook."""

import math
from collections.abc import Sequence

Group = tuple[str, Sequence[float]]


def weight(groups: Sequence[Group]) -> float:
    """s_b / (s_b + s_w / K) of groups (prompt, K rewards) of all rounds."""
    s_b, s_w = components(groups)
    return 0.0 if s_b == 0 else s_b / (s_b + s_w / len(groups[0][1]))


def effective_number(groups: Sequence[Group]) -> float:
    """K over the design effect 1 + (K - 1) rho, with rho the correlation of two rewards of a group."""
    k = len(groups[0][1])
    s_b, s_w = components(groups)
    rho = 0.0 if s_b == 0 else s_b / (s_b + s_w)
    return k / (1 + (k - 1) * rho)


def components(groups: Sequence[Group]) -> tuple[float, float]:
    """Variances s_b of groups and s_w of their members; s_b is 0 where it cannot be estimated or would be negative."""
    k = len(groups[0][1])
    prompts = sorted({prompt for prompt, _ in groups})
    within = between = 0.0
    for prompt in prompts:
        members = [rewards for other, rewards in groups if other == prompt]
        everything = [reward for rewards in members for reward in rewards]
        center = math.fsum(everything) / len(everything)
        for rewards in members:
            mean = math.fsum(rewards) / k
            between += k * (mean - center) ** 2
            within += math.fsum((reward - mean) ** 2 for reward in rewards)
    free_between, free_within = len(groups) - len(prompts), len(groups) * (k - 1)
    if free_between == 0 or free_within == 0:
        return 0.0, 0.0
    s_w = within / free_within
    return max(0.0, (between / free_between - s_w) / k), s_w


def advantages(
    rounds: Sequence[Sequence[Group]], *, num_rounds: int, std_floor: float = 1e-4, max_advantage: float = 5.0
) -> tuple[list[list[float]], list[float]]:
    """Advantages of the branches and of the trunks of the newest round, given the groups of every round."""
    now = rounds[-1]
    names = {prompt for prompt, _ in now}
    known = [
        group for groups in rounds[max(0, len(rounds) - 1 - num_rounds) :] for group in groups if group[0] in names
    ]
    w = weight(known)
    squares = []
    for prompt, rewards in known:
        squares += [(reward - _baseline(prompt, rewards, known, w)) ** 2 for reward in rewards]
    std = math.sqrt(math.fsum(squares) / len(squares))

    largest = max(abs(reward) for _, rewards in known for reward in rewards)

    def scale(value: float) -> float:
        if std == 0 or std < std_floor * largest:
            return 0.0
        return max(-max_advantage, min(max_advantage, value / std))

    branches = [[scale(r - _baseline(prompt, rewards, known, w)) for r in rewards] for prompt, rewards in now]
    trunks = [
        scale(math.fsum(rewards) / len(rewards) - _baseline(prompt, rewards, known, 0.0)) for prompt, rewards in now
    ]
    return branches, trunks


def _baseline(prompt: str, rewards: Sequence[float], known: Sequence[Group], w: float) -> float:
    everything = [reward for other, members in known if other == prompt for reward in members]
    return w * math.fsum(rewards) / len(rewards) + (1 - w) * math.fsum(everything) / len(everything)
