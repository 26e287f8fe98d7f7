"""Early-first growth: the control of backward progressive training, with the same number of trained steps per round."""

from collections.abc import Sequence
from typing import Literal

from b2diffurl.algorithm.schedule import Length, WholeChain, check_length, growing_length
from b2diffurl.config import settings


@settings(table="schedule")
class Forward(WholeChain):
    """Train the first tau_first steps first, then extend them forward until they cover all T, or all but tau_last.

    The number of trained steps of a round is that of `Backward`, but they are the first of the chain. The interval is
    the whole chain in every round: branches, if there are any, share x_T only.

    Attributes:
        tau_last: number of last steps that no round trains, below T.
        use: name of the schedule.
        tau_first: number of steps that the first round trains, 1 to T.
    """

    use: Literal["forward"] = "forward"
    tau_first: Length = 14

    def trained_steps(
        self,
        round_number: int,
        *,
        interval_length: int,  # noqa: ARG002
        num_rounds: int,
        num_inference_steps: int,
    ) -> Sequence[int]:
        """Return the first steps, as many as `Backward` trains in this round, without the last tau_last.

        >>> Forward(tau_first=3).trained_steps(2, interval_length=5, num_rounds=3, num_inference_steps=5)
        range(0, 4)
        """
        trained = growing_length(
            self.tau_first, round_number, num_rounds=num_rounds, num_inference_steps=num_inference_steps
        )
        return range(min(trained, num_inference_steps - self.tau_last))

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:
        """Raise UserError if it trains more steps than the chain has, or none."""
        check_length("tau_first", self.tau_first, num_inference_steps)
        WholeChain.check(self, num_inference_steps=num_inference_steps, num_branches=num_branches)
