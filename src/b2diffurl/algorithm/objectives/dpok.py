"""DPOK: the policy gradient with the exact KL to the pretrained model as a term of the loss (arXiv 2305.16381).

The KL has its gradient: both policies are Gaussians of the same variance, so it is |mean - mean_ref|^2 / (2 var).
Strictly on-policy, as the policy gradient is: one optimizer step a round.

Shapes: M single steps of selected trajectories.
"""

import math
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class DPOK(Objective):
    """-log_prob A + beta KL(policy || reference).

    Attributes:
        use: the objective's name.
        beta: weight of the KL, which is in the unit of the log-probs, so that the unit does not move the balance;
            0.01 is DPOK's, beside advantages of about 1 (ours).
    """

    needs: ClassVar[Needs] = Needs(reference=True, on_policy=True)
    use: Literal["dpok"] = "dpok"
    beta: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise UserError(f"objective.beta is {self.beta}; give 0 (no KL term) or more, such as 0.01.")

    def loss(self, batch: StepBatch) -> Float[Tensor, " M"]:
        """Loss of every step, to minimize.

        >>> import torch
        >>> one, kl = torch.tensor([-1.0]), torch.tensor([2.0])
        >>> DPOK(beta=0.5).loss(StepBatch(
        ...     log_prob=one, old_log_prob=one, advantage=one, reference_log_prob=one, kl_to_reference=kl)).tolist()
        [0.0]
        """
        assert batch.kl_to_reference is not None
        return -batch.log_prob * batch.advantage + self.beta * batch.kl_to_reference

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        """kl_term: the KL's part of the loss."""
        assert batch.kl_to_reference is not None
        return {"kl_term": self.beta * batch.kl_to_reference}
