"""The adaptive schedule: extend the interval as soon as its groups have little left to contrast (ours)."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Literal

from annotated_types import Ge, Le

from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.schedule import GrowingInterval
from b2diffurl.config import PositiveInt, settings
from b2diffurl.errors import UserError


class GrowthReason(IntEnum):
    """Why the next interval is longer than the last one."""

    NONE = 0
    SCHEDULED = 1
    SATURATED = 2
    NO_PAIRS = 3


@settings(table="schedule")
class Adaptive(GrowingInterval):
    """Like `Backward`, but earlier where the current interval has little left to teach (ours).

    The criterion is the mean pair fraction over the last `window` rounds at the current interval length (fewer, if it
    has had fewer). After each round the interval grows by one step if

    1. that mean is below `least_pair_fraction`: the members of most groups no longer differ. The reason is SATURATED if
       an earlier round at this length was above it, otherwise NO_PAIRS;
    2. `Backward` with the same settings would be longer by now: SCHEDULED.

    At tau_max it stops growing. The interval is never shorter than `Backward`'s, even where that grows by several steps
    at once. The rule is a function of the completed rounds, which a checkpoint keeps, so a resumed run decides as an
    uninterrupted one.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below tau_first.
        tau_first: length of the first interval, 1 to T.
        tau_max: length at which the growth stops, tau_first to T; 0 for T.
        use: name of the schedule.
        least_pair_fraction: pair fraction below which the interval grows, 0 to 1.
        window: number of rounds that are averaged.
    """

    use: Literal["adaptive"] = "adaptive"
    least_pair_fraction: Annotated[float, Ge(0), Le(1)] = 0.5
    window: PositiveInt = 2

    def interval_length(
        self, round_number: int, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound] = ()
    ) -> int:
        """Return the interval length of round `round_number`; without past rounds, the least that it can be."""
        scheduled = self.backward_length(round_number, num_rounds=num_rounds, num_inference_steps=num_inference_steps)
        if not past:
            return scheduled
        assert len(past) == round_number - 1
        reason = self.growth_reason(num_rounds=num_rounds, num_inference_steps=num_inference_steps, past=past)
        return max(scheduled, past[-1].interval_length + (reason is not GrowthReason.NONE))

    def growth_reason(self, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound]) -> GrowthReason:
        """Return whether the interval grows after the completed rounds, and why.

        >>> past = [PastRound(interval_length=14, pair_fraction=f) for f in (0.7, 0.5, 0.4)]
        >>> Adaptive().growth_reason(num_rounds=100, num_inference_steps=20, past=past)
        <GrowthReason.SATURATED: 2>
        """
        if not past or past[-1].interval_length >= self.longest(num_inference_steps):
            return GrowthReason.NONE
        length = past[-1].interval_length
        fractions = [done.pair_fraction for done in past if done.interval_length == length]
        recent = fractions[-self.window :]
        if sum(recent) / len(recent) < self.least_pair_fraction:
            return GrowthReason.SATURATED if max(fractions) >= self.least_pair_fraction else GrowthReason.NO_PAIRS
        scheduled = self.backward_length(len(past) + 1, num_rounds=num_rounds, num_inference_steps=num_inference_steps)
        return GrowthReason.SCHEDULED if scheduled > length else GrowthReason.NONE

    def metrics(self, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound]) -> dict[str, int]:
        """growth_reason: why the next interval is longer, as a number."""
        reason = self.growth_reason(num_rounds=num_rounds, num_inference_steps=num_inference_steps, past=past)
        return {"growth_reason": int(reason)}

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:
        """Raise UserError if the interval is longer than the chain, or if there are no branch groups to have pairs."""
        GrowingInterval.check(self, num_inference_steps=num_inference_steps, num_branches=num_branches)
        if num_branches < 2:
            raise UserError(
                "rollout.num_branches is 1 but schedule adaptive depends on the pairs of branch groups; "
                "give more branches, or use schedule:backward."
            )
