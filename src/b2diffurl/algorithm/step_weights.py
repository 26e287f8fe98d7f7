"""How much the loss of each trained denoising step counts.

Under the weights "equal", the step whose log-prob is most sensitive to the network dominates the gradient. "even"
(ours) divides by that sensitivity k_t = |d mean / d output| / std (`DDIM.sensitivity`), so that all steps add equal
noise.

"probe" (ours) is the best weight for noise that is equal and signals that are not. Along a direction that changes the
network's output equally at every step, the derivative of the log-prob of step t is k_t times unit noise e_t. If the
reward is linear in the noise and step t decides the variance v_t of it, A times that derivative has the mean
k_t sqrt(v_t) c (with the cosine c between the direction and what the reward responds to, here the same for all steps)
and the variance k_t^2 E[A^2]. A sum with weights w_t has the largest ratio of mean to standard deviation where w_t is
the mean over the variance: w_t proportional to sqrt(v_t) / k_t, which is "even" times the standard deviation that a
step decides.

Shapes: n trained steps.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

StepWeights = Literal["equal", "even", "probe"]


def step_weights(
    kind: StepWeights, sensitivity: Float[Tensor, " n"], decided_variance: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Return the weight of each trained step, float32, with mean 1.

    Args:
        kind: which weights.
        sensitivity: k_t of the trained steps, > 0.
        decided_variance: v_t of the trained steps, >= 0 in any unit; only for "probe".

    Raises:
        ValueError: the weights are "probe" and no trained step decides any variance.

    >>> step_weights("probe", torch.tensor([1.0, 1.0, 4.0]), torch.tensor([0.0, 1.0, 4.0])).tolist()
    [0.0, 2.0, 1.0]
    """
    if kind == "equal":
        return torch.ones(len(sensitivity))
    weights = 1 / sensitivity
    if kind == "probe":
        assert decided_variance is not None
        weights = weights * decided_variance.sqrt()
        if not bool((weights > 0).any()):
            raise ValueError("No trained step decides any variance.")
    return (weights / weights.mean()).float()
