"""DPO (arXiv 2305.18290) on the denoising steps of a better and a worse trajectory, as in D3PO (arXiv 2311.13231).

The pairs are best and worst of one branch group, without branching of one prompt. Unlike in public code no ratio is
clamped, so the gradient is there wherever the sigmoid has one.

Shapes: M = 2 P single steps, P pairs.
"""

import math
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.config import settings
from b2diffurl.errors import UserError


@settings
class DPO(Objective):
    """-log sigmoid(beta [(log_prob - reference_log_prob) of the better - the same of the worse]).

    Attributes:
        use: the objective's name.
        beta: how soon a pair counts as learned; larger holds the policy closer to the reference. In units of one over
            the log-prob's; 0.1 is D3PO's, on averaged log-probs.
    """

    needs: ClassVar[Needs] = Needs(reference=True, pairs=True)
    use: Literal["dpo"] = "dpo"
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise UserError(f"objective.beta is {self.beta}; give a number above 0, such as 0.1.")

    def loss(self, batch: StepBatch) -> Float[Tensor, " P"]:
        """Loss of every pair of steps, to minimize.

        >>> import torch
        >>> log_prob, zero = torch.tensor([1.0, 0.0]), torch.zeros(2)
        >>> batch = StepBatch(log_prob=log_prob, old_log_prob=zero, advantage=zero, reference_log_prob=log_prob)
        >>> round(DPO(beta=2.0).loss(batch).item(), 4)
        0.6931
        """
        return -logsigmoid(self._margin(batch))

    def metrics(self, batch: StepBatch) -> dict[str, Tensor]:
        """margin: of the implicit reward, better minus worse. pair_accuracy: 1 where it is above 0, else 0."""
        margin = self._margin(batch)
        return {"margin": margin, "pair_accuracy": (margin > 0).float()}

    def _margin(self, batch: StepBatch) -> Float[Tensor, " P"]:
        assert batch.reference_log_prob is not None
        better, worse = (batch.log_prob - batch.reference_log_prob).chunk(2)
        return self.beta * (better - worse)
