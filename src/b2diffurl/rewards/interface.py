"""The interface of a reward."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Metadata = Sequence[Mapping[str, Any]]
"""One mapping per prompt, from the prompts file."""

RewardOutput = Tensor | tuple[Tensor, Mapping[str, Any]]
"""Scores, or scores and info: a mapping from a name, such as "caption", to one entry per image."""


@runtime_checkable
class Reward(Protocol):
    """Score generated images. Higher is better; any scale, since advantages are normalized.

    A reward may take a third argument `metadata`, one mapping per image.
    """

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> RewardOutput:
        """Score images in [0, 1] against their prompts: one finite number per image in the same order.

        Returns:
            Scores of shape (B,), or the pair (scores, info). Info is logged and never trained on.
        """
        ...
