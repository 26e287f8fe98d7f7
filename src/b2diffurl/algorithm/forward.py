"""Early-first growth: the control of backward progressive training, with the same number of trained steps per round."""

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

    def num_untrained(self, round_number: int, *, num_rounds: int, num_inference_steps: int) -> int:
        """Return the number of steps after those that the round trains.

        >>> [Forward().num_untrained(i, num_rounds=100, num_inference_steps=20) for i in (1, 15, 16, 100)]
        [6, 6, 5, 0]
        """
        trained = growing_length(
            self.tau_first, round_number, num_rounds=num_rounds, num_inference_steps=num_inference_steps
        )
        return max(self.tau_last, num_inference_steps - trained)

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:
        """Raise UserError if it trains more steps than the chain has, or none."""
        check_length("tau_first", self.tau_first, num_inference_steps)
        WholeChain.check(self, num_inference_steps=num_inference_steps, num_branches=num_branches)
