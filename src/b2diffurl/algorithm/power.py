"""The power rule: every trajectory, the decisive ones with more weight (ours).

Shapes: G branch groups of K trajectories, S = G K.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Selector
from b2diffurl.algorithm.records import Selection
from b2diffurl.algorithm.selection import select_all
from b2diffurl.config import NonNegativeFloat, settings


@settings(table="selection")
class Power(Selector):
    """Every trajectory, its loss weighted by |A|^p, with mean weight 1 over the round.

    For a loss that is linear in the advantage, the effective advantage is sign(A) |A|^(p + 1), rescaled. p = 0 is the
    selection `all`; the larger p, the closer to the extremes of the round alone. Nothing is dropped, so it saves no
    time. The loss of a pair, which are those of `all`, has the mean of both weights.

    Attributes:
        use: name of the selector.
        exponent: p (ours).
    """

    use: Literal["power"] = "power"
    exponent: NonNegativeFloat = 1.0

    def select(self, advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:
        """Select all, with weights."""
        sizes = advantages.abs().flatten().double()
        if not bool(sizes.any()):
            sizes = torch.ones_like(sizes)  # nothing to prefer
        powers = (sizes / sizes.max()) ** self.exponent
        return replace(select_all(advantages, prompts), weights=(powers / powers.mean()).to(advantages.dtype))
