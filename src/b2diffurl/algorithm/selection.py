"""Which trajectories are trained on: the best and the worst of a branch group, or all (paper, section 3.3, Eq. 5).

Shapes: B trajectories = G groups of K, the members of a group next to each other.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.records import Selection
from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class BestWorst:
    """The best trajectory of each group if it is good, the worst if it is bad; each "if available".

    Attributes:
        use: the selector's name.
        pos_threshold: least advantage of a best one, > 0; the reference run's is 0.5.
        neg_threshold: advantage that a worst one must stay under, < 0; the reference run's is -0.5.
    """

    use: Literal["best-worst"] = "best-worst"
    pos_threshold: float = 0.5
    neg_threshold: float = -0.5

    def __post_init__(self) -> None:
        if not self.pos_threshold > 0:
            raise UserError(f"selection.pos_threshold is {self.pos_threshold}; give a number above 0, such as 0.5.")
        if not self.neg_threshold < 0:
            raise UserError(f"selection.neg_threshold is {self.neg_threshold}; give a number below 0, such as -0.5.")

    def check(self, num_branches: int) -> None:
        """Refuse groups of one: best and worst would be the same trajectory."""
        if num_branches < 2:
            raise UserError(
                f"rollout.num_branches is {num_branches} but selection best-worst needs at least 2; "
                "give more branches, or use selection:all."
            )

    def select(
        self,
        advantages: Float[Tensor, " B"],
        prompts: Sequence[str],  # noqa: ARG002
        *,
        num_branches: int,
    ) -> Selection:
        """Choose best and worst of every group; of equal ones the first."""
        grouped = advantages.view(-1, num_branches)
        best, worst = grouped.max(dim=1), grouped.min(dim=1)
        first = torch.arange(len(grouped)) * num_branches
        good, bad = best.values >= self.pos_threshold, worst.values < self.neg_threshold
        best_index, worst_index = first + best.indices, first + worst.indices
        chosen = torch.cat([best_index[good], worst_index[bad]]).sort().values
        both = good & bad
        return Selection(index=chosen, pairs=torch.stack([best_index[both], worst_index[both]], dim=1))


@settings
class All:
    """Every trajectory, as plain DDPO does.

    Its pairs, for an objective that needs them, are taken within a branch group, without branching within a prompt:
    the best with the worst, the second best with the second worst, and so on; equal ones are no pair.

    Attributes:
        use: the selector's name.
    """

    use: Literal["all"] = "all"

    def check(self, num_branches: int) -> None:
        """Accept groups of any size."""

    def select(self, advantages: Float[Tensor, " B"], prompts: Sequence[str], *, num_branches: int) -> Selection:
        """Choose all."""
        among: dict[int | str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            among.setdefault(prompt if num_branches == 1 else i // num_branches, []).append(i)
        pairs: list[tuple[int, int]] = []
        for members in among.values():
            ranked = sorted(members, key=lambda i: -float(advantages[i]))
            half = len(ranked) // 2
            pairs += [
                (i, j)
                for i, j in zip(ranked[:half], ranked[: -half - 1 : -1], strict=True)
                if advantages[i] > advantages[j]
            ]
        return Selection(
            index=torch.arange(len(advantages)), pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        )
