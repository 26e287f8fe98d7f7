"""DDPO with the exact KL to the pretrained model as a term of the loss (as Flow-GRPO has it, arXiv 2505.05470).

Unlike DPOK it keeps the importance ratio and the clip, so that a round may have several optimizer steps.

Shapes: M single steps of selected trajectories.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.objectives.ddpo import DDPO
from b2diffurl.algorithm.objectives.dpok import DPOK
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.config import settings


@settings
class DDPOKl(Objective):
    """-min(rho A, clip(rho, 1 - e, 1 + e) A) + beta KL(policy || reference).

    Attributes:
        use: the objective's name.
        clip_range: e, as in `ddpo`.
        beta: weight of the KL, which is in the unit of the log-probs, so that the unit does not move the balance;
            0.04 is Flow-GRPO's for images with the reward GenEval.
    """

    needs: ClassVar[Needs] = Needs(reference=True)
    use: Literal["ddpo-kl"] = "ddpo-kl"
    clip_range: float = 0.1
    beta: float = 0.04

    def __post_init__(self) -> None:
        DDPO(clip_range=self.clip_range)  # these raise UserError for numbers out of range
        DPOK(beta=self.beta)

    def loss(self, batch: StepBatch) -> Float[Tensor, " M"]:
        """Loss of every step, to minimize.

        >>> import torch
        >>> one, kl = torch.tensor([1.0]), torch.tensor([2.0])
        >>> DDPOKl(beta=0.5).loss(StepBatch(
        ...     log_prob=one, old_log_prob=one, advantage=one, reference_log_prob=one, kl_to_reference=kl)).tolist()
        [0.0]
        """
        assert batch.kl_to_reference is not None
        return DDPO(clip_range=self.clip_range).loss(batch) + self.beta * batch.kl_to_reference

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        """clip_fraction: 1 where the clip takes DDPO's gradient away, else 0; kl_term: the KL's part of the loss."""
        assert batch.kl_to_reference is not None
        kl_term = self.beta * batch.kl_to_reference
        return DDPO(clip_range=self.clip_range).metrics(batch) | {"kl_term": kl_term}
