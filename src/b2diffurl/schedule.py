"""Backward progressive training: which of the last denoising steps each round trains (paper, section 3.2)."""

from typing import Literal

from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class Backward:
    """Train the last tau_first steps first, then ever more, until the interval covers all T.

    tau_i = tau_first + floor(i (T - tau_first + 1) / S) in round i of S, at most T.

    Attributes:
        use: the schedule's name.
        tau_first: length of the first interval, 1 to T; the reference run's is 14 of 20.
    """

    use: Literal["backward"] = "backward"
    tau_first: int = 14

    def __post_init__(self) -> None:
        if self.tau_first < 1:
            raise UserError(f"schedule.tau_first is {self.tau_first}; give 1 or more steps.")

    def num_steps(self, round_index: int, *, num_rounds: int, num_inference_steps: int) -> int:
        """Length of the interval in round `round_index`, counted from 0.

        Raises:
            UserError: tau_first is longer than the whole chain.

        >>> [Backward(tau_first=14).num_steps(i, num_rounds=100, num_inference_steps=20) for i in (0, 14, 15, 99)]
        [14, 14, 15, 20]
        """
        self.check(num_inference_steps)
        extended = round_index * (num_inference_steps - self.tau_first + 1) // num_rounds
        return min(num_inference_steps, self.tau_first + extended)

    def check(self, num_inference_steps: int) -> None:
        """Refuse an interval that is longer than the chain."""
        if self.tau_first > num_inference_steps:
            raise UserError(
                f"schedule.tau_first is {self.tau_first} but sampler.num_inference_steps is {num_inference_steps}; "
                f"give a tau_first of at most {num_inference_steps}."
            )


@settings
class Full:
    """Train all T steps in every round, as plain DDPO does.

    Attributes:
        use: the schedule's name.
    """

    use: Literal["full"] = "full"

    def num_steps(self, round_index: int, *, num_rounds: int, num_inference_steps: int) -> int:  # noqa: ARG002
        """All of them."""
        return num_inference_steps

    def check(self, num_inference_steps: int) -> None:
        """Accept any chain."""
