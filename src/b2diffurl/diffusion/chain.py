"""The interface of a denoising chain. Only `diffusion/` and `models/` know which chain it is.

Shapes: B latents of C x H x W elements, T denoising steps, step 0 the first (from x_T).
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.diffusion.gaussian import Gaussian


@runtime_checkable
class Chain(Protocol):
    """T denoising steps, each a Gaussian action."""

    @property
    def timesteps(self) -> Tensor:
        """The model's timestep of each step, shape (T,), descending."""
        ...

    @property
    def num_steps(self) -> int:
        """Number of denoising steps T."""
        ...

    @property
    def sensitivity(self) -> Tensor:
        """|d mean / d output| / sqrt(var) of each step, shape (T,), float64; infinite where a step is deterministic."""
        ...

    def is_action(self, step: int) -> bool:
        """Whether a step adds noise. One that does not is taken, but never trained."""
        ...

    def transition(
        self, model_output: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"], step_index: Int[Tensor, " B"]
    ) -> Gaussian:
        """Return the distribution of the next latents, given the network's output at `timesteps[step_index]`."""
        ...
