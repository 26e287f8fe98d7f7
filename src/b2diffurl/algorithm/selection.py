"""Which trajectories are trained on: the best and the worst of a branch group, or all (paper, section 3.3, Eq. 5).

Shapes: G branch groups of K trajectories.
"""

# Tensor.split and Tensor.unflatten have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Lt
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Selector, check_groups
from b2diffurl.algorithm.records import Selection
from b2diffurl.config import settings


@settings(table="selection")
class BestWorst(Selector):
    """The best trajectory of each group if it is good, and the worst if it is bad.

    Attributes:
        use: name of the selector.
        pos_threshold: least advantage of a best trajectory, > 0; 0.5 in the reference run.
        neg_threshold: advantage that a worst trajectory must be below, < 0; -0.5 in the reference run.
    """

    use: Literal["best-worst"] = "best-worst"
    pos_threshold: Annotated[float, Gt(0)] = 0.5
    neg_threshold: Annotated[float, Lt(0)] = -0.5

    def check(self, *, num_branches: int) -> None:
        """Raise UserError for groups of one, whose best and worst are the same trajectory."""
        check_groups("selection best-worst", num_branches=num_branches, instead="selection:all")

    def max_selected(self, *, num_groups: int, num_branches: int) -> int:  # noqa: ARG002
        """Return two per group."""
        return 2 * num_groups

    def select(self, advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:  # noqa: ARG002
        """Select best and worst of every group; the first of equal ones."""
        best, worst = advantages.max(dim=1), advantages.min(dim=1)
        groups = torch.arange(len(advantages))
        best_index = torch.stack([groups, best.indices], dim=1)
        worst_index = torch.stack([groups, worst.indices], dim=1)
        is_good = best.values >= self.pos_threshold
        is_bad = worst.values < self.neg_threshold
        index = torch.cat([best_index[is_good], worst_index[is_bad]])
        ascending = (index[:, 0] * advantages.shape[1] + index[:, 1]).argsort()
        is_pair = is_good & is_bad
        return Selection(index=index[ascending], pairs=torch.stack([best_index[is_pair], worst_index[is_pair]], dim=1))


@settings(table="selection")
class All(Selector):
    """Every trajectory, as plain DDPO does.

    Its pairs, for an objective that needs them, are formed within a branch group, without branching within a prompt:
    the best with the worst, the second best with the second worst, and so on; ties form no pair.

    Attributes:
        use: name of the selector.
    """

    use: Literal["all"] = "all"

    def select(self, advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:
        """Select all."""
        return select_all(advantages, prompts)


def select_all(advantages: Float[Tensor, "G K"], prompts: Sequence[str]) -> Selection:
    """Return every trajectory, with the pairs that `All` describes."""
    num_groups, num_branches = advantages.shape
    values: list[float] = advantages.flatten().tolist()
    candidates: dict[int | str, list[int]] = {}
    for i in range(len(values)):
        group = i // num_branches
        candidates.setdefault(prompts[group] if num_branches == 1 else group, []).append(i)
    pairs: list[tuple[int, int]] = []
    for members in candidates.values():
        ranked = sorted(members, key=lambda i: -values[i])
        half = len(ranked) // 2
        opposites = zip(ranked[:half], ranked[: -half - 1 : -1], strict=True)
        pairs += [(i, j) for i, j in opposites if values[i] > values[j]]
    index = torch.cartesian_prod(torch.arange(num_groups), torch.arange(num_branches))
    return Selection(index=index, pairs=index[torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)])
