"""The gap rule: best and worst of the branch groups whose members really differ (ours).

Shapes: G branch groups of K trajectories.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Selector, check_groups
from b2diffurl.algorithm.records import Selection
from b2diffurl.config import NonNegativeFloat, settings


@settings(table="selection")
class Gap(Selector):
    """The best and the worst trajectory of each group whose best exceeds its worst by a multiple of the usual spread.

    A group is selected if max A - min A > delta * s, where s is the standard deviation within groups, pooled over the
    round: s^2 = sum of (A - mean of the group)^2 / (G (K - 1)). Unlike thresholds on the advantages themselves, this
    refuses groups with nothing to contrast, and not groups with a lucky or an unlucky trunk. Both members are selected,
    so every group gives a pair or nothing; of equal members the first counts.

    Attributes:
        use: name of the selector.
        delta: least difference, in standard deviations within groups (ours; 4 normal numbers span 2.06 on average).
    """

    use: Literal["gap"] = "gap"
    delta: NonNegativeFloat = 1.0

    def check(self, *, num_branches: int) -> None:
        """Raise UserError for groups of one, which have no differences."""
        check_groups("selection gap", num_branches=num_branches, instead="selection:all")

    def max_selected(self, *, num_groups: int, num_branches: int) -> int:  # noqa: ARG002
        """Return two per group."""
        return 2 * num_groups

    def select(self, advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:  # noqa: ARG002
        """Select best and worst of the groups that differ enough."""
        best, worst = advantages.max(dim=1), advantages.min(dim=1)
        kept = (best.values - worst.values > self.delta * within_group_std(advantages)).nonzero()[:, 0]
        pairs = torch.stack([kept, best.indices[kept], kept, worst.indices[kept]], dim=1).view(-1, 2, 2)
        index = pairs.view(-1, 2)
        return Selection(index=index[(index[:, 0] * advantages.shape[1] + index[:, 1]).argsort()], pairs=pairs)


def within_group_std(values: Float[Tensor, "G K"]) -> Float[Tensor, ""]:
    """Return the standard deviation within groups, pooled over all of them; K > 1.

    >>> float(within_group_std(torch.tensor([[0.0, 2.0], [5.0, 5.0]])))
    1.0
    """
    num_groups, num_members = values.shape
    differences = values - values.mean(dim=1, keepdim=True)
    return (differences.square().sum() / max(1, num_groups * (num_members - 1))).sqrt()
