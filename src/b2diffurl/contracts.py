"""What a part must offer to be used in a run; any class or function that fits is welcome."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from b2diffurl.records import Selection, StepBatch


@runtime_checkable
class Reward(Protocol):
    """Score final pictures. Higher is better; any scale, since advantages are normalised per prompt."""

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Score pictures in [0, 1] against their prompts, one finite number a picture, order kept."""
        ...


@runtime_checkable
class Objective(Protocol):
    """Turn the log-probs and advantages of single steps into a loss."""

    def loss(self, batch: StepBatch) -> Float[Tensor, " M"]:
        """Give the loss of every step, to minimise; the update averages over all selected steps."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """Say how many of the last denoising steps each round trains."""

    def num_steps(self, round_index: int, *, num_rounds: int, num_inference_steps: int) -> int:
        """Length of the interval in round `round_index`, counted from 0; between 1 and `num_inference_steps`."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Choose the trajectories that are trained on."""

    def select(self, advantages: Float[Tensor, " B"], *, num_branches: int) -> Selection:
        """Choose among B trajectories, the `num_branches` members of a group next to each other."""
        ...
