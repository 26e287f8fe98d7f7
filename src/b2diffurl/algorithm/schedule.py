"""Backward progressive training: which of the last denoising steps each round trains (paper, section 3.2)."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from b2diffurl.algorithm.interfaces import Schedule
from b2diffurl.algorithm.records import PastRound
from b2diffurl.config import settings
from b2diffurl.errors import UserError

Length = Annotated[int, Ge(1)]


@settings(table="schedule")
class Backward(Schedule):
    """Train the last tau_first steps first, then extend the interval backward until it covers all T.

    tau_i = tau_first + floor(i (T - tau_first + 1) / S) in round i + 1 of S, at most T.

    Attributes:
        use: name of the schedule.
        tau_first: length of the first interval, 1 to T; 14 of 20 in the reference run.
    """

    use: Literal["backward"] = "backward"
    tau_first: Length = 14

    def interval_length(
        self,
        round_number: int,
        *,
        num_rounds: int,
        num_inference_steps: int,
        past: Sequence[PastRound] = (),  # noqa: ARG002
    ) -> int:
        """Return the interval length of round `round_number`, counted from 1.

        >>> schedule = Backward(tau_first=14)
        >>> [schedule.interval_length(i, num_rounds=100, num_inference_steps=20) for i in (1, 15, 16, 100)]
        [14, 14, 15, 20]
        """
        extension = (round_number - 1) * (num_inference_steps - self.tau_first + 1) // num_rounds
        return min(num_inference_steps, self.tau_first + extension)

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:  # noqa: ARG002
        """Raise UserError if the interval is longer than the chain."""
        check_length("tau_first", self.tau_first, num_inference_steps)


@settings(table="schedule")
class Full(Schedule):
    """Train all T steps in every round, as plain DDPO does.

    Attributes:
        use: name of the schedule.
    """

    use: Literal["full"] = "full"

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


@settings(table="schedule")
class Table(Schedule):
    """Interval lengths given by a table.

    Attributes:
        use: name of the schedule.
        rows: pairs (round, length): from this round on, counted from 1, the last `length` steps are trained. The first
            row is round 1's, and rounds ascend: `[[1, 14], [30, 17], [60, 20]]`.
    """

    use: Literal["table"] = "table"
    rows: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        rounds = [first for first, _ in self.rows]
        if not rounds or rounds[0] != 1 or sorted(set(rounds)) != rounds:
            raise UserError(f"schedule.rows is {self.rows}; give (round, length) pairs, from round 1 on, ascending.")
        if min(length for _, length in self.rows) < 1:
            raise UserError(f"schedule.rows is {self.rows}; give lengths of 1 or more steps.")

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

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:  # noqa: ARG002
        """Raise UserError if an interval is longer than the chain."""
        check_length("rows", max(length for _, length in self.rows), num_inference_steps)


def check_length(name: str, length: int, num_inference_steps: int) -> None:
    """Raise UserError if an interval length of a schedule is longer than the chain."""
    if length > num_inference_steps:
        raise UserError(
            f"schedule.{name} is {length} but sampler.num_inference_steps is {num_inference_steps}; "
            f"give at most {num_inference_steps}."
        )
