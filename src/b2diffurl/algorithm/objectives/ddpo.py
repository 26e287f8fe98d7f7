"""DDPO with importance sampling (arXiv 2305.13301, section 4.3; equations 4 and 6 of B²-DiffuRL), PPO's clip.

Shapes: M single steps of selected trajectories.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class DDPO(Objective):
    """-min(rho A, clip(rho, 1 - e, 1 + e) A) with rho = exp(log_prob - old_log_prob).

    Attributes:
        use: the objective's name.
        clip_range: e, in the unit of the averaged log-prob. 0.1 is the reference run's; with 16,384 elements in a
            latent it is 1,562 nats and never clips, which is why a run has a trust region besides.
    """

    use: Literal["ddpo"] = "ddpo"
    clip_range: float = 0.1

    def __post_init__(self) -> None:
        if not self.clip_range > 0:
            raise UserError(f"objective.clip_range is {self.clip_range}; give a number above 0, such as 0.1.")

    def loss(self, batch: StepBatch) -> Float[Tensor, " M"]:
        """Loss of every step, to minimize.

        >>> one, up = torch.tensor([0.0]), torch.tensor([1.0])
        >>> DDPO().loss(StepBatch(log_prob=one, old_log_prob=one, advantage=up)).tolist()
        [-1.0]
        """
        ratio = torch.exp(batch.log_prob - batch.old_log_prob)
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        return -torch.minimum(ratio * batch.advantage, clipped * batch.advantage)

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        """clip_fraction: 1 where the clip takes the gradient away, else 0."""
        ratio = torch.exp(batch.log_prob - batch.old_log_prob)
        high = (ratio > 1 + self.clip_range) & (batch.advantage > 0)
        low = (ratio < 1 - self.clip_range) & (batch.advantage < 0)
        return {"clip_fraction": (high | low).float()}
