"""What a part must offer to be used in a run; any class or function that fits is welcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.records import PastRound, Selection, StepBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What an objective needs besides log-probs and advantages.

    Attributes:
        reference: log-probs under the reference and the exact KL to it: one more forward pass, without gradient.
        pairs: steps come as pairs, better and worse; see `StepBatch`.
        on_policy: it is right only for the policy that sampled: one optimizer step a round.
    """

    reference: bool = False
    pairs: bool = False
    on_policy: bool = False


@runtime_checkable
class Objective(Protocol):
    """Turn the log-probs and advantages of single steps into a loss.

    Your own may be a subclass: then `loss` is all it has to define.
    """

    needs: ClassVar[Needs] = Needs()

    def loss(self, batch: StepBatch) -> Float[Tensor, " U"]:
        """Give the loss of every step, or of every pair of steps, to minimize; the update averages over all of them."""
        ...

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:  # noqa: ARG002
        """Give numbers to log as objective/NAME: one a step or a pair, averaged over the round."""
        return {}


@runtime_checkable
class Schedule(Protocol):
    """Say how many of the last denoising steps each round trains."""

    def num_steps(
        self, round_index: int, *, num_rounds: int, num_inference_steps: int, past: Sequence[PastRound] = ()
    ) -> int:
        """Length of the interval in round `round_index`, counted from 0; between 1 and `num_inference_steps`."""
        ...


@runtime_checkable
class Normalizer(Protocol):
    """Turn rewards into advantages."""

    @property
    def num_past_rounds(self) -> int:
        """Rounds before this one whose rewards count."""
        ...

    def normalize(
        self,
        rewards: Float[Tensor, " B"],
        prompts: Sequence[str],
        *,
        num_branches: int,
        past: Sequence[dict[str, list[float]]],
    ) -> Float[Tensor, " B"]:
        """Give one advantage a trajectory; `past` has the rewards of past rounds by prompt."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Choose the trajectories that are trained on."""

    def select(self, advantages: Float[Tensor, " B"], prompts: Sequence[str], *, num_branches: int) -> Selection:
        """Choose among B trajectories, the `num_branches` members of a group next to each other."""
        ...
