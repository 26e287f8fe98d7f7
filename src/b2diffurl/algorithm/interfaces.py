"""Interfaces of the replaceable components. A class that has the methods fits; inheriting brings the defaults."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.records import PastRound, Selection, StepBatch
from b2diffurl.errors import UserError


@runtime_checkable
class Schedule(Protocol):
    """Decides how long the interval of each round is: the last denoising steps, in which branches differ."""

    @property
    def tau_last(self) -> int:
        """Number of steps at the end of the interval that are sampled but not trained, less than its length."""
        return 0

    def interval_length(
        self, round_number: int, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound] = ()
    ) -> int:
        """Return the interval length of a round, 1 to `num_inference_steps`.

        Args:
            round_number: the round, counted from 1.
            num_rounds: S, rounds of the run.
            num_inference_steps: T, denoising steps.
            past: the completed rounds; empty where a run is only planned.
        """
        ...

    def trained_steps(
        self,
        round_number: int,  # noqa: ARG002
        *,
        interval_length: int,
        num_rounds: int,  # noqa: ARG002
        num_inference_steps: int,
    ) -> Sequence[int]:
        """Return the steps of a round's interval that are trained; by default all but the last tau_last.

        Args:
            round_number: the round, counted from 1.
            interval_length: the length of its interval.
            num_rounds: S, rounds of the run.
            num_inference_steps: T, denoising steps.

        Returns:
            One or more steps, ascending, counted from 0 at x_T: from T - interval_length to T - 1.
        """
        return range(num_inference_steps - interval_length, num_inference_steps - self.tau_last)

    def can_change_num_rounds(self, *, num_inference_steps: int, past: Sequence[PastRound]) -> bool:  # noqa: ARG002
        """Whether a resumed run may have another number of rounds: neither past nor future intervals depend on it."""
        return False

    def check(self, *, num_inference_steps: int, num_branches: int) -> None:
        """Raise UserError if the schedule cannot be used with this sampler or this number of branches."""

    def metrics(self, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound]) -> dict[str, int]:  # noqa: ARG002
        """Return numbers to log as interval/NAME after a round, which is the last one of `past`."""
        return {}


@runtime_checkable
class Normalizer(Protocol):
    """Turns rewards into advantages."""

    @property
    def num_past_rounds(self) -> int:
        """Number of earlier rounds whose rewards are passed to `normalize`."""
        return 0

    def normalize(
        self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], *, past: Sequence[dict[str, list[float]]]
    ) -> Float[Tensor, "G K"]:
        """Return one advantage per trajectory.

        Args:
            rewards: float64, K trajectories of each of G branch groups.
            prompts: one per branch group.
            past: the rewards of the last rounds by prompt, the newest round last; the K rewards of a branch group
                follow each other.
        """
        ...

    def clip(self, advantages: Float[Tensor, "G K"]) -> Float[Tensor, "G K"]:
        """Return the advantages to train on; the selection compares those of `normalize`. By default they are equal."""
        return advantages

    def normalize_trunks(
        self, rewards: Float[Tensor, "G K"], prompts: Sequence[str], *, past: Sequence[dict[str, list[float]]]
    ) -> Float[Tensor, " G"]:
        """Return one advantage per trunk, where trunks are trained: by default the mean of its trajectories'."""
        return self.normalize(rewards, prompts, past=past).mean(dim=1)

    def metrics(
        self,
        rewards: Float[Tensor, "G K"],  # noqa: ARG002
        prompts: Sequence[str],  # noqa: ARG002
        *,
        past: Sequence[dict[str, list[float]]],  # noqa: ARG002
    ) -> dict[str, float]:
        """Return numbers to log as advantage/NAME; arguments are those of `normalize`."""
        return {}

    def check(self, *, num_branches: int) -> None:
        """Raise UserError if the normalizer cannot be used with this number of branches."""


@runtime_checkable
class Selector(Protocol):
    """Chooses the trajectories to train on."""

    def select(self, advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:
        """Select among K trajectories of each of G branch groups, one prompt per group."""
        ...

    def check(self, *, num_branches: int) -> None:
        """Raise UserError if the selector cannot be used with this number of branches."""

    def max_selected(self, *, num_groups: int, num_branches: int) -> int:
        """Return how many trajectories of a round it selects at most, from which `plan` computes costs; here all."""
        return num_groups * num_branches


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What an objective needs besides log-probs and advantages.

    Attributes:
        reference: log-probs under the reference and the exact KL to it: one more forward pass, without gradient.
        pairs: steps come as pairs, better and worse; see `StepBatch`.
        on_policy: valid only for the policy that sampled: one optimizer step per round.
    """

    reference: bool = False
    pairs: bool = False
    on_policy: bool = False


@runtime_checkable
class Objective(Protocol):
    """Turns the log-probs and advantages of single steps into a loss. A subclass only has to define `loss`."""

    needs: ClassVar[Needs] = Needs()

    def loss(self, batch: StepBatch) -> Float[Tensor, " U"]:
        """Return the loss of every step, or of every pair of steps, to minimize; the update averages over all."""
        ...

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:  # noqa: ARG002
        """Return numbers to log as objective/NAME, one per step or pair; the update averages over the round."""
        return {}


def check_groups(component: str, *, num_branches: int, instead: str) -> None:
    """Raise UserError if a component that compares the members of a branch group has groups of one.

    Args:
        component: kind and name, such as "selection gap".
        num_branches: members of a branch group.
        instead: the flag of a component that accepts groups of one.
    """
    if num_branches < 2:
        raise UserError(
            f"rollout.num_branches is {num_branches} but {component} needs at least 2; "
            f"give more branches, or use {instead}."
        )
