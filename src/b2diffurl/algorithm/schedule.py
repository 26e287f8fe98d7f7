"""Backward progressive training: which of the last denoising steps each round trains (paper, section 3.2)."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

from b2diffurl.algorithm.records import PastRound
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

    def num_steps(
        self,
        round_index: int,
        *,
        num_rounds: int,
        num_inference_steps: int,
        past: Sequence[PastRound] = (),  # noqa: ARG002
    ) -> int:
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
        _check_length("tau_first", self.tau_first, num_inference_steps)


@settings
class Full:
    """Train all T steps in every round, as plain DDPO does.

    Attributes:
        use: the schedule's name.
    """

    use: Literal["full"] = "full"

    def num_steps(
        self,
        round_index: int,  # noqa: ARG002
        *,
        num_rounds: int,  # noqa: ARG002
        num_inference_steps: int,
        past: Sequence[PastRound] = (),  # noqa: ARG002
    ) -> int:
        """All of them."""
        return num_inference_steps

    def check(self, num_inference_steps: int) -> None:
        """Accept any chain."""


@settings
class Table:
    """Interval lengths written out.

    Attributes:
        use: the schedule's name.
        rows: (round, length): from this round on, counted from 1, the last `length` steps are trained. The first row is
            round 1's; rounds ascend. `[[1, 14], [30, 17], [60, 20]]`
    """

    use: Literal["table"] = "table"
    rows: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        rounds = [first for first, _ in self.rows]
        if not rounds or rounds[0] != 1 or sorted(set(rounds)) != rounds:
            raise UserError(f"schedule.rows is {self.rows}; give (round, length) pairs, from round 1 on, ascending.")
        if min(length for _, length in self.rows) < 1:
            raise UserError(f"schedule.rows is {self.rows}; give lengths of 1 or more steps.")

    def num_steps(
        self,
        round_index: int,
        *,
        num_rounds: int,  # noqa: ARG002
        num_inference_steps: int,
        past: Sequence[PastRound] = (),  # noqa: ARG002
    ) -> int:
        """Length of the last row that has begun.

        >>> [Table(rows=((1, 14), (3, 20))).num_steps(i, num_rounds=4, num_inference_steps=20) for i in range(4)]
        [14, 14, 20, 20]
        """
        self.check(num_inference_steps)
        return [length for first, length in self.rows if first <= round_index + 1][-1]

    def check(self, num_inference_steps: int) -> None:
        """Refuse an interval that is longer than the chain."""
        _check_length("rows", max(length for _, length in self.rows), num_inference_steps)


class Verdict(IntEnum):
    """Why an adaptive interval is as long as it is."""

    KEPT = 0
    PACE = 1
    LEARNED = 2
    DRY = 3


@settings
class Adaptive:
    """As `Backward`, but sooner where the present interval has little left to teach (ours, no paper's).

    What is looked at is the pair fraction, pairs per branch group, in the mean over the last `window` rounds at the
    present length (fewer, if it has had fewer). After each round the interval grows by one step, if

    1. that mean is below `least_pair_fraction`: the groups' members hardly differ any more. LEARNED, if at this length
       a round was above it before, else DRY;
    2. PACE: `Backward` with the same tau_first would be longer by now.

    It is never shorter than `Backward`, even where that grows by several steps at once.

    The rule is a function of the rounds done, which a checkpoint keeps; so a resumed run decides as if uninterrupted.

    Attributes:
        use: the schedule's name.
        tau_first: length of the first interval, 1 to T.
        least_pair_fraction: 0 to 1.
        window: rounds that are averaged.
    """

    use: Literal["adaptive"] = "adaptive"
    tau_first: int = 14
    least_pair_fraction: float = 0.5
    window: int = 2

    def __post_init__(self) -> None:
        for name in ("tau_first", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"schedule.{name} is {getattr(self, name)}; give 1 or more.")
        if not 0 <= self.least_pair_fraction <= 1:
            raise UserError(
                f"schedule.least_pair_fraction is {self.least_pair_fraction}; give a number from 0 to 1, such as 0.5."
            )

    def num_steps(
        self, round_index: int, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound] = ()
    ) -> int:
        """Length of the interval in round `round_index`, whose past is the `round_index` rounds before it."""
        assert len(past) == round_index, "an adaptive schedule needs its past"
        pace = Backward(tau_first=self.tau_first).num_steps(
            round_index, num_rounds=num_rounds, num_inference_steps=num_inference_steps
        )
        if not past:
            return pace
        verdict = self.verdict(num_rounds=num_rounds, num_inference_steps=num_inference_steps, past=past)
        return max(pace, past[-1].num_steps + (verdict is not Verdict.KEPT))

    def verdict(self, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound]) -> Verdict:
        """Whether the interval grows after the rounds done, and why.

        >>> told = [PastRound(num_steps=14, pair_fraction=f) for f in (0.7, 0.5, 0.4)]
        >>> Adaptive().verdict(num_rounds=100, num_inference_steps=20, past=told)
        <Verdict.LEARNED: 2>
        """
        if not past or past[-1].num_steps >= num_inference_steps:
            return Verdict.KEPT
        length = past[-1].num_steps
        here = [done.pair_fraction for done in past if done.num_steps == length]
        if sum(here[-self.window :]) / len(here[-self.window :]) < self.least_pair_fraction:
            return Verdict.LEARNED if max(here) >= self.least_pair_fraction else Verdict.DRY
        pace = Backward(tau_first=self.tau_first)
        if pace.num_steps(len(past), num_rounds=num_rounds, num_inference_steps=num_inference_steps) > length:
            return Verdict.PACE
        return Verdict.KEPT

    def check(self, num_inference_steps: int) -> None:
        """Refuse an interval that is longer than the chain."""
        _check_length("tau_first", self.tau_first, num_inference_steps)


def _check_length(name: str, length: int, num_inference_steps: int) -> None:
    if length > num_inference_steps:
        raise UserError(
            f"schedule.{name} is {length} but sampler.num_inference_steps is {num_inference_steps}; "
            f"give at most {num_inference_steps}."
        )
