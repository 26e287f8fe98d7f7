"""The time that a run has left, from the seconds that its rounds have taken so far.

A round samples and then updates. Their costs differ between rounds, as intervals grow, so the seconds per unit of cost
are measured for each of the two, and multiplied by the costs that are left.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from b2diffurl.analysis.plan import model_shape, round_costs, run_evaluations
from b2diffurl.run.settings import Run

_UPDATE_FACTOR = 3.0  # ours: forward and backward pass over a forward pass, until an update has been measured
_SAMPLE, _SCORE, _UPDATE = "sample", "score", "update"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundWork:
    """The cost of a round, or of what follows the last one.

    Attributes:
        sampling: network evaluations of sampling.
        update: network evaluations of the update, at most.
    """

    sampling: float
    update: float


def run_time_left(run: Run) -> "TimeLeft":
    """Return the estimate of a run, from the network evaluations that its rounds will take."""
    shape = model_shape(run.model)
    cost = run_evaluations(run, shape)
    rounds = [
        RoundWork(sampling=float(each.rollout_evaluations), update=float(each.most_update_evaluations))
        for each in round_costs(run, shape)
    ]
    return TimeLeft(rounds, after=cost.images / (1 + run.logging.evaluate_before))


class TimeLeft:
    """Estimates how long a run still takes.

    Args:
        rounds: the cost of every round.
        after: cost of what follows the last round, the evaluation.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        rounds: Sequence[RoundWork],
        *,
        after: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rounds = rounds
        self._after = after
        self._clock = clock
        self._index = 0
        self._phase, self._started, self._fraction = "", 0.0, 0.0
        self._seconds = {_SAMPLE: 0.0, _UPDATE: 0.0}
        self._cost = {_SAMPLE: 0.0, _UPDATE: 0.0}

    def begin_round(self, index: int) -> None:
        """Set the round that is next, counted from 0."""
        self._index = index

    def begin_phase(self, name: str) -> None:
        """End the phase before, which is complete, and begin one."""
        self._end_phase()
        self._phase, self._started, self._fraction = name, self._clock(), 0.0

    def advance(self, fraction: float) -> None:
        """Set the completed fraction of the phase."""
        self._fraction = fraction

    def end_round(self) -> None:
        """Count the round as done."""
        self._end_phase()
        self._phase = ""
        self._index += 1

    def seconds(self) -> float | None:
        """Return the seconds left, or None before anything is measured."""
        now = self._clock() - self._started
        seconds, cost = dict(self._seconds), dict(self._cost)
        here = RoundWork(sampling=0.0, update=0.0) if self._index >= len(self._rounds) else self._rounds[self._index]
        sampled, updated = 0.0, 0.0
        if self._phase == _SAMPLE:
            sampled = self._fraction * here.sampling
            seconds[_SAMPLE], cost[_SAMPLE] = seconds[_SAMPLE] + now, cost[_SAMPLE] + sampled
        elif self._phase == _UPDATE:
            sampled, updated = here.sampling, self._fraction * here.update
            seconds[_UPDATE], cost[_UPDATE] = seconds[_UPDATE] + now, cost[_UPDATE] + updated
        elif self._phase == _SCORE:
            sampled = here.sampling
        if not cost[_SAMPLE]:
            return None
        each = seconds[_SAMPLE] / cost[_SAMPLE]
        each_update = seconds[_UPDATE] / cost[_UPDATE] if cost[_UPDATE] else _UPDATE_FACTOR * each
        left = self._rounds[self._index :]
        sampling = sum(work.sampling for work in left) - sampled + self._after
        return each * sampling + each_update * (sum(work.update for work in left) - updated)

    def _end_phase(self) -> None:
        kind = _SAMPLE if self._phase in (_SAMPLE, _SCORE) else self._phase
        if kind not in self._seconds or self._index >= len(self._rounds):
            return
        self._seconds[kind] += self._clock() - self._started
        if self._phase != _SCORE:  # the score's seconds belong to the images that have been sampled
            here = self._rounds[self._index]
            self._cost[kind] += here.sampling if kind == _SAMPLE else here.update
