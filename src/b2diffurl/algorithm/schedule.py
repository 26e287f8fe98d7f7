"""Backward progressive training: which of the last denoising steps each round trains (paper, section 3.2).

`interval_of` is what a round asks of any schedule.

The interval is the last tau steps of T. The last tau_last of these can be left out of training (ours): they are sampled
with noise as ever, but decide so little that their gradients are mostly noise.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from b2diffurl.algorithm.interfaces import Schedule
from b2diffurl.algorithm.records import PastRound, StepInterval
from b2diffurl.config import NonNegativeInt, settings
from b2diffurl.errors import UserError

Length = Annotated[int, Ge(1)]


@settings(table="schedule")
class ScheduleWithEnd(Schedule):
    """What all schedules here share: the end of the interval.

    Attributes:
        tau_last: number of last steps that are sampled but not trained; 0 in the paper.
    """

    tau_last: NonNegativeInt = 0  # pyright: ignore[reportIncompatibleMethodOverride] - a field instead of a property


@settings(table="schedule")
class GrowingInterval(ScheduleWithEnd):
    """An interval that grows from tau_first steps.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below tau_first; 0 in the paper.
        tau_first: length of the first interval, 1 to T; 14 of 20 in the reference run.
        tau_max: length at which the growth stops, tau_first to T; 0 for T, as in the paper.
    """

    tau_first: Length = 14
    tau_max: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_end(self.tau_last, "tau_first", self.tau_first)
        if 0 < self.tau_max < self.tau_first:
            raise UserError(
                f"schedule.tau_max is {self.tau_max} but tau_first is {self.tau_first}; "
                f"give at least {self.tau_first}, or 0 for no limit."
            )

    def longest(self, num_inference_steps: int) -> int:
        """Return the length at which the growth stops."""
        return self.tau_max or num_inference_steps

    def backward_length(self, round_number: int, *, num_rounds: int, num_inference_steps: int) -> int:
        """Return the paper's interval length: equally many rounds at each length from tau_first to T, up to tau_max."""
        length = growing_length(
            self.tau_first, round_number, num_rounds=num_rounds, num_inference_steps=num_inference_steps
        )
        return min(self.longest(num_inference_steps), length)

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:  # noqa: ARG002
        """Raise UserError if the interval is longer than the chain."""
        check_length("tau_first", self.tau_first, num_inference_steps)
        check_length("tau_max", self.tau_max, num_inference_steps)


@settings(table="schedule")
class Backward(GrowingInterval):
    """Train the last tau_first steps first, then extend the interval backward until it covers all T.

    tau_i = tau_first + floor(i (T - tau_first + 1) / S) in round i + 1 of S, at most T, or tau_max if that is given:
    the pace does not depend on where the growth stops. It never shrinks, also if a resumed run gets more rounds after
    the growth has stopped.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below tau_first; 0 in the paper.
        tau_first: length of the first interval, 1 to T; 14 of 20 in the reference run.
        tau_max: length at which the growth stops, tau_first to T; 0 for T, as in the paper.
        use: name of the schedule.
    """

    use: Literal["backward"] = "backward"

    def interval_length(
        self,
        round_number: int,
        *,
        num_rounds: int,
        num_inference_steps: int,
        past: Sequence[PastRound] = (),
    ) -> int:
        """Return the interval length of round `round_number`, counted from 1.

        >>> schedule = Backward(tau_first=14)
        >>> [schedule.interval_length(i, num_rounds=100, num_inference_steps=20) for i in (1, 15, 16, 100)]
        [14, 14, 15, 20]
        """
        length = self.backward_length(round_number, num_rounds=num_rounds, num_inference_steps=num_inference_steps)
        return max(length, past[-1].interval_length) if past else length

    def can_change_num_rounds(self, *, num_inference_steps: int, past: Sequence[PastRound]) -> bool:
        """Whether the growth has stopped; before, its pace depends on the number of rounds."""
        return bool(past) and past[-1].interval_length >= self.longest(num_inference_steps)


@settings(table="schedule")
class WholeChain(ScheduleWithEnd):
    """An interval of all T steps in every round.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below T.
    """

    def interval_length(
        self,
        round_number: int,  # noqa: ARG002
        *,
        num_rounds: int,  # noqa: ARG002
        num_inference_steps: int,
        past: Sequence[PastRound] = (),  # noqa: ARG002
    ) -> int:
        """Return T."""
        return num_inference_steps

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:  # noqa: ARG002
        """Raise UserError if no step would be trained."""
        check_end(self.tau_last, "sampler.num_inference_steps", num_inference_steps)


@settings(table="schedule")
class Full(WholeChain):
    """All T steps in every round, as plain DDPO has.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below T; 0 in DDPO.
        use: name of the schedule.
    """

    use: Literal["full"] = "full"

    def can_change_num_rounds(self, *, num_inference_steps: int, past: Sequence[PastRound]) -> bool:  # noqa: ARG002
        """Always."""
        return True


@settings(table="schedule")
class Table(ScheduleWithEnd):
    """Interval lengths given by a table.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below every length.
        use: name of the schedule.
        rows: pairs (round, length): the length of the interval from this round on, counted from 1. The first row is
            round 1's, and rounds ascend: `[[1, 14], [30, 17], [60, 20]]`.
    """

    use: Literal["table"] = "table"
    rows: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        rounds = [first for first, _ in self.rows]
        if not rounds or rounds[0] != 1 or sorted(set(rounds)) != rounds:
            raise UserError(f"schedule.rows is {self.rows}; give (round, length) pairs, from round 1 on, ascending.")
        if min(length for _, length in self.rows) < 1:
            raise UserError(f"schedule.rows is {self.rows}; give lengths of 1 or more steps.")
        check_end(self.tau_last, "the shortest of rows", min(length for _, length in self.rows))

    def interval_length(
        self,
        round_number: int,
        *,
        num_rounds: int,  # noqa: ARG002
        num_inference_steps: int,  # noqa: ARG002
        past: Sequence[PastRound] = (),  # noqa: ARG002
    ) -> int:
        """Return the length of the last row that has begun.

        >>> [Table(rows=((1, 14), (3, 20))).interval_length(i, num_rounds=4, num_inference_steps=20) for i in (1, 2, 3)]
        [14, 14, 20]
        """
        return [length for first, length in self.rows if first <= round_number][-1]

    def can_change_num_rounds(self, *, num_inference_steps: int, past: Sequence[PastRound]) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:  # noqa: ARG002
        """Raise UserError if an interval is longer than the chain."""
        check_length("rows", max(length for _, length in self.rows), num_inference_steps)


def interval_of(
    schedule: Schedule, round_number: int, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound] = ()
) -> StepInterval:
    """Return the interval of a round and its trained steps; arguments are those of `Schedule.interval_length`.

    Raises:
        UserError: a schedule from user code gives an interval or steps that the chain does not have.
    """
    length = schedule.interval_length(
        round_number, num_rounds=num_rounds, num_inference_steps=num_inference_steps, past=past
    )
    if not 1 <= length <= num_inference_steps:
        raise UserError(
            f"the schedule gives round {round_number} an interval of {length} steps; give 1 to {num_inference_steps}."
        )
    trained = tuple(
        schedule.trained_steps(
            round_number, interval_length=length, num_rounds=num_rounds, num_inference_steps=num_inference_steps
        )
    )
    inside = range(num_inference_steps - length, num_inference_steps)
    if not trained or list(trained) != sorted(set(trained)) or trained[0] not in inside or trained[-1] not in inside:
        raise UserError(
            f"the schedule trains the steps {list(trained)} of round {round_number}; give one or more steps from "
            f"{inside[0]} to {inside[-1]}, ascending."
        )
    return StepInterval(length, trained)


def growing_length(first: int, round_number: int, *, num_rounds: int, num_inference_steps: int) -> int:
    """Return a length that grows from `first` to T, with equally many rounds at each length (paper, section 3.2)."""
    extension = (round_number - 1) * (num_inference_steps - first + 1) // num_rounds
    return min(num_inference_steps, first + extension)


def check_end(tau_last: int, name: str, length: int) -> None:
    """Raise UserError if the end that is not trained leaves no step of an interval of this length."""
    if tau_last >= length:
        raise UserError(
            f"schedule.tau_last is {tau_last} but {name} is {length}, so that no step would be trained; "
            f"give at most {length - 1}."
        )


def check_length(name: str, length: int, num_inference_steps: int) -> None:
    """Raise UserError if an interval length of a schedule is longer than the chain."""
    if length > num_inference_steps:
        raise UserError(
            f"schedule.{name} is {length} but sampler.num_inference_steps is {num_inference_steps}; "
            f"give at most {num_inference_steps}."
        )
