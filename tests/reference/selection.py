"""Best and worst of every branch group, by looking at one trajectory after the other (paper, section 3.3, Eq. 5)."""

from collections.abc import Sequence


def best_and_worst(
    advantages: Sequence[float], *, num_branches: int, pos_threshold: float, neg_threshold: float
) -> tuple[list[int], list[tuple[int, int]]]:
    """The selected trajectories in ascending order, and (best, worst) of the groups that gave both."""
    index, pairs = [], []
    for first in range(0, len(advantages), num_branches):
        best = worst = first
        for member in range(first, first + num_branches):
            if advantages[member] > advantages[best]:
                best = member
            if advantages[member] < advantages[worst]:
                worst = member
        good = advantages[best] >= pos_threshold
        bad = advantages[worst] < neg_threshold
        if good:
            index.append(best)
        if bad:
            index.append(worst)
        if good and bad:
            pairs.append((best, worst))
    return sorted(index), pairs


def all_pairs(advantages: Sequence[float], prompts: Sequence[str], *, num_branches: int) -> list[tuple[int, int]]:
    """Take the best and the worst that are left of a branch group, or without branching of a prompt, until all tie."""
    groups: list[list[int]] = []
    names: list[object] = []
    for i in range(len(advantages)):
        name = prompts[i] if num_branches == 1 else i // num_branches
        if name not in names:
            names.append(name)
            groups.append([])
        groups[names.index(name)].append(i)
    pairs = []
    for left in groups:
        while left:
            best = worst = left[0]
            for i in left:
                if advantages[i] > advantages[best]:
                    best = i
                if advantages[i] <= advantages[worst]:
                    worst = i
            if advantages[best] == advantages[worst]:
                break
            pairs.append((best, worst))
            left.remove(best)
            left.remove(worst)
    return pairs


def gap(advantages: Sequence[float], *, num_branches: int, delta: float) -> tuple[list[int], list[tuple[int, int]]]:
    """Best and worst of the groups whose best exceeds its worst by delta pooled standard deviations."""
    squares, num_groups = 0.0, len(advantages) // num_branches
    for first in range(0, len(advantages), num_branches):
        members = advantages[first : first + num_branches]
        mean = sum(members) / num_branches
        for value in members:
            squares += (value - mean) ** 2
    std = (squares / (num_groups * (num_branches - 1))) ** 0.5 if num_groups else 0.0
    index, pairs = [], []
    for first in range(0, len(advantages), num_branches):
        best = worst = first
        for member in range(first, first + num_branches):
            if advantages[member] > advantages[best]:
                best = member
            if advantages[member] < advantages[worst]:
                worst = member
        if advantages[best] - advantages[worst] > delta * std:
            index += [best, worst]
            pairs.append((best, worst))
    return sorted(index), pairs


def extremes(advantages: Sequence[float], *, fraction: float) -> list[int]:
    """Take the lowest and the highest that are left in turn, until the fraction is reached; at least one of each."""
    left = list(range(len(advantages)))
    wanted = round(fraction * len(advantages) / 2)
    taken: list[int] = []
    while len(left) >= 2 and (not taken or len(taken) < 2 * wanted):
        lowest, highest = left[0], left[0]
        for i in left:
            if advantages[i] < advantages[lowest]:
                lowest = i
            if advantages[i] >= advantages[highest]:
                highest = i
        if lowest == highest:  # all that are left are equal
            lowest, highest = left[0], left[-1]
        taken += [lowest, highest]
        left = [i for i in left if i not in (lowest, highest)]
    return sorted(taken)


def power_weights(advantages: Sequence[float], *, exponent: float) -> list[float]:
    """|A|^p over its mean; all 1 if all are 0."""
    powers = [abs(value) ** exponent for value in advantages]
    total = sum(powers)
    if total == 0:
        return [1.0] * len(powers)
    return [power * len(powers) / total for power in powers]
