"""The plain policy gradient, REINFORCE (Williams 1992; as in DDPO's section 4.3, arXiv 2305.13301, DDPO-SF).

Strictly on-policy: the gradient is right for the policy that sampled and for no other, so a round has one optimizer
step.

Shapes: M single steps of selected trajectories.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.interfaces import Needs, Objective
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.config import settings


@settings
class PolicyGradient(Objective):
    """-log_prob A.

    Attributes:
        use: the objective's name.
    """

    needs: ClassVar[Needs] = Needs(on_policy=True)
    use: Literal["policy-gradient"] = "policy-gradient"

    def loss(self, batch: StepBatch) -> Float[Tensor, " M"]:
        """Loss of every step, to minimize.

        >>> import torch
        >>> log_prob, down = torch.tensor([-2.0]), torch.tensor([-1.0])
        >>> PolicyGradient().loss(StepBatch(log_prob=log_prob, old_log_prob=log_prob, advantage=down)).tolist()
        [-2.0]
        """
        return -batch.log_prob * batch.advantage
