"""A custom reward: a function from images and prompts to one number per image.

Train on it, or serve it to a run elsewhere:

    b2diffurl train emoji-quickstart --reward examples/own_reward.py:redness
    b2diffurl serve-reward examples/own_reward.py:redness
"""

from collections.abc import Sequence

from torch import Tensor


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:  # noqa: ARG001
    """Return how much redder than green and blue each image (B, 3, H, W) in [0, 1] is; higher is better."""
    red, green, blue = images.mean(dim=(2, 3)).unbind(dim=1)
    return red - (green + blue) / 2
