"""Evenly spaced steps: the control that trains as few steps as an interval, spread over the whole chain."""

from collections.abc import Sequence
from typing import Literal

from b2diffurl.algorithm.records import PastRound
from b2diffurl.algorithm.schedule import Length, WholeChain
from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings(table="schedule")
class Spaced(WholeChain):
    """Train num_trained evenly spaced steps of the chain, the same in every round.

    The interval is the whole chain in every round: branches, if there are any, share x_T only.

    Attributes:
        tau_last: number of last steps that are sampled but not trained, below T.
        use: name of the schedule.
        num_trained: number of trained steps, 1 to T - tau_last.
    """

    use: Literal["spaced"] = "spaced"
    num_trained: Length = 10

    def trained_steps(
        self,
        round_number: int,  # noqa: ARG002
        *,
        interval_length: int,  # noqa: ARG002
        num_rounds: int,  # noqa: ARG002
        num_inference_steps: int,
    ) -> Sequence[int]:
        """Return the middle steps of num_trained equal parts of the chain without its last tau_last steps.

        >>> Spaced(num_trained=4).trained_steps(1, interval_length=12, num_rounds=1, num_inference_steps=12)
        [1, 4, 7, 10]
        """
        num_steps = num_inference_steps - self.tau_last
        return [(2 * i + 1) * num_steps // (2 * self.num_trained) for i in range(self.num_trained)]

    def can_change_num_rounds(self, *, num_inference_steps: int, past: Sequence[PastRound]) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:
        """Raise UserError if it trains more steps than there are."""
        WholeChain.check(self, num_inference_steps=num_inference_steps, num_branches=num_branches)
        num_steps = num_inference_steps - self.tau_last
        if self.num_trained > num_steps:
            raise UserError(
                f"schedule.num_trained is {self.num_trained} but there are {num_steps} steps without the last "
                f"tau_last; give at most {num_steps}."
            )
