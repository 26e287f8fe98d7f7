"""The extremes of a round: its best and its worst trajectories, whatever their branch group (PODS, arXiv 2504.13818).

Shapes: G branch groups of K trajectories, S = G K.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Selector
from b2diffurl.algorithm.records import Selection
from b2diffurl.algorithm.selection import select_all
from b2diffurl.config import settings


@settings(table="selection")
class Extremes(Selector):
    """The n trajectories of the round with the highest advantages and the n with the lowest, n = fraction S / 2.

    Of equal advantages the first counts as the lower. It is the control of branching: the selection `best-worst`
    without branch groups. Where the advantages are symmetric about 0, it is PODS' subset of the largest variance. Its
    pairs are those of `all` with both members selected.

    Attributes:
        use: name of the selector.
        fraction: share of the round's trajectories, > 0, at most 1; n is rounded to the nearest integer and at least 1,
            as far as S allows (0.5, ours: two of four, as `best-worst` with four branches).
    """

    use: Literal["extremes"] = "extremes"
    fraction: Annotated[float, Gt(0), Le(1)] = 0.5

    def max_selected(self, *, num_groups: int, num_branches: int) -> int:
        """Return 2 n."""
        return 2 * self._num_each(num_groups * num_branches)

    def select(self, advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:
        """Select the extremes."""
        size, num_branches = advantages.numel(), advantages.shape[1]
        num_each = self._num_each(size)
        ascending = advantages.flatten().argsort(stable=True)
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[ascending[:num_each]] = True
        chosen[ascending[size - num_each :]] = True
        every = select_all(advantages, prompts)
        members = chosen[every.pairs[..., 0] * num_branches + every.pairs[..., 1]]
        return Selection(index=every.index[chosen], pairs=every.pairs[members.all(dim=1)])

    def _num_each(self, size: int) -> int:
        """Return n, the number of best and of worst trajectories of a round of `size`."""
        return min(size // 2, max(1, round(self.fraction * size / 2)))
