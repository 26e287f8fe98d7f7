"""The interface of a reward."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Reward(Protocol):
    """Score final pictures. Higher is better; any scale, since advantages are normalized."""

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Score pictures in [0, 1] against their prompts, one finite number a picture, order kept."""
        ...
