"""What a study says: means with intervals, paired differences, and whether claims hold."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from b2diffurl.analysis.study.results import CellResult, Point
from b2diffurl.analysis.study.spec import BASE, Cell, Claim
from b2diffurl.evaluation.statistics import Interval, paired_difference, t_interval

Verdict = Literal["holds", "does not hold", "not decided", "no data"]
Seeds = Mapping[int, Sequence[Point]]  # the evaluations of an arm by seed
Rounds = list[tuple[int, float | None]]  # by round, the images scored so far and the value of a metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What the data say about a claim in one condition and for one pair of arms.

    Attributes:
        claim: the claim.
        condition: the condition.
        arm: the arm that is compared.
        against: the arm that it is compared with.
        verdict: whether the interval lies on the right side of the bound, on the wrong one, or on both.
        interval: mean over seeds of the differences or ratios, with the 95 % interval; None without data.
        num_seeds: number of seeds in which both arms have the metric where the claim reads it.
    """

    claim: Claim
    condition: str
    arm: str
    against: str
    verdict: Verdict
    interval: Interval | None
    num_seeds: int


class StudyResults:
    """The results of a study, by condition, arm and seed.

    Args:
        cells: the runs of the study.
        results: results by key.
    """

    def __init__(self, cells: Sequence[Cell], results: Mapping[str, CellResult]) -> None:
        self.results: dict[tuple[str, str, int], CellResult] = {
            (cell.condition, cell.arm, cell.seed): results[cell.key] for cell in cells if cell.key in results
        }
        self._runs = {(cell.condition, cell.arm, cell.seed): cell.run for cell in cells}
        starts = {(cell.condition, cell.arm, cell.seed): cell.start for cell in cells}
        bases: dict[str, list[Point]] = {}
        for of, result in self.results.items():
            if result.points and not _lacks_start(result):
                bases.setdefault(starts[of], [result.points[0]])
        self._bases = {of: bases.get(start, []) for of, start in starts.items()}
        self.conditions = list(dict.fromkeys(cell.condition for cell in cells))
        self.arms = list(dict.fromkeys(cell.arm for cell in cells))
        self.num_missing = sum(cell.key not in results for cell in cells)

    def seeds(self, condition: str, arm: str) -> dict[int, list[Point]]:
        """Return the evaluations of an arm by seed; runs that were stopped have none at the end and are left out.

        The arm "base" has one evaluation per seed, that before training.
        """
        if arm == BASE:
            bases = reversed(self._bases.items())  # that of the first arm stays
            return {seed: base for (of_condition, _, seed), base in bases if of_condition == condition and base}
        return {
            result.seed: [
                replace(point, images_per_trunk=self._runs[of].rollout.num_branches)
                for point in (*(self._bases[of] if _lacks_start(result) else []), *result.points)
            ]
            for of, result in self._ended(condition, arm)
        }

    def rounds(self, condition: str, arm: str, metric: str) -> dict[int, Rounds]:
        """Return a metric of an arm's rounds by seed; results that lack it, and stopped runs, are left out."""
        return {
            result.seed: [
                (self._runs[of].reward_queries_per_round * number, value)
                for number, value in enumerate(values, start=1)
            ]
            for of, result in self._ended(condition, arm)
            if (values := result.rounds.get(metric))
        }

    def _ended(self, condition: str, arm: str) -> Iterator[tuple[tuple[str, str, int], CellResult]]:
        """Yield the results of an arm that have an evaluation at the end."""
        for of, result in self.results.items():
            if of[:2] == (condition, arm) and result.points and not result.stopped:
                yield of, result

    def metrics(self, condition: str | None = None) -> list[str]:
        """Return the names of the evaluation metrics of a condition, or of all, in the order of the results."""
        names = (
            name
            for (of_condition, _, _), result in self.results.items()
            if condition in (None, of_condition)
            for point in result.points
            for name in point.scores
        )
        return list(dict.fromkeys(names))

    def decide(self, claim: Claim) -> list[Decision]:
        """Decide a claim for all its pairs of arms, in its condition or in each condition if it names none."""
        conditions = [claim.condition] if claim.condition else self.conditions
        return [
            self._decide(claim, condition=condition, arm=arm, against=against)
            for condition in conditions
            for arm, against in claim.pairs
        ]

    def _decide(self, claim: Claim, *, condition: str, arm: str, against: str) -> Decision:
        read = [_read(claim, *pair) for pair in self.pairs(condition, arm, against)]
        values = [(ours, other) for ours, other in read if ours is not None and other is not None]
        estimate = paired_difference if claim.kind == "difference" else ratio_interval
        interval = estimate([ours for ours, _ in values], [other for _, other in values]) if values else None
        return Decision(
            claim=claim, condition=condition, arm=arm, against=against,
            verdict=_verdict(claim, interval) if interval else "no data", interval=interval, num_seeds=len(values),
        )  # fmt: skip

    def pairs(self, condition: str, arm: str, against: str) -> list[tuple[list[Point], list[Point]]]:
        """Return the evaluations of two arms for every seed that both have."""
        first, second = self.seeds(condition, arm), self.seeds(condition, against)
        return [(first[seed], second[seed]) for seed in first if seed in second]


def _lacks_start(result: CellResult) -> bool:
    return result.points[0].reward_queries > 0


def _read(claim: Claim, ours: Sequence[Point], others: Sequence[Point]) -> tuple[float | None, float | None]:
    """Return the metric of a claim of both arms, read where the claim says."""
    metric, end = claim.metric, others[-1]
    for name, value in claim.at.items():
        return value_at(ours, metric, where=name, reaches=value), value_at(others, metric, where=name, reaches=value)
    if not claim.reaches:
        return ours[-1].value(metric), end.value(metric)
    value = end.value(claim.reaches)
    return None if value is None else value_at(ours, metric, where=claim.reaches, reaches=value), end.value(metric)


def value_at(points: Sequence[Point], metric: str, *, where: str, reaches: float) -> float | None:
    """Return a metric where another one first reaches a value, by linear interpolation; None if it never does.

    Args:
        points: evaluations, oldest first.
        metric: the metric that is read.
        where: the metric that reaches the value, from below.
        reaches: the value.
    """
    previous: tuple[float, float] | None = None
    for point in points:
        level, value = point.value(where), point.value(metric)
        if level is None or value is None:
            continue
        if level >= reaches:
            if previous is None or level == previous[0]:
                return value
            share = (reaches - previous[0]) / (level - previous[0])
            return previous[1] + share * (value - previous[1])
        previous = (level, value)
    return None


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Estimate the ratio a / b over pairs: the geometric mean, with the t interval of the logarithms.

    >>> ratio_interval([2.0, 2.0], [4.0, 4.0])
    Interval(mean=0.5, low=0.5, high=0.5)
    """
    logs = t_interval([math.log(x / y) for x, y in zip(a, b, strict=True)])
    return Interval(mean=math.exp(logs.mean), low=math.exp(logs.low), high=math.exp(logs.high))


def _verdict(claim: Claim, interval: Interval) -> Verdict:
    lowest, highest = claim.at_least, claim.at_most
    if interval.low >= lowest and interval.high <= highest:
        return "holds"
    if interval.high < lowest or interval.low > highest:
        return "does not hold"
    return "not decided"


def summary(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    """Return the mean of the values with half the width of its 95 % interval, as text."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    interval = t_interval(known)
    if len(known) == 1:
        return text(interval.mean)
    return f"{text(interval.mean)} ± {text((interval.high - interval.low) / 2)}"
