"""The derivative of log-probs along one direction in weight space, by a central difference (ours).

For a Gaussian action a of mean m and variance v, d log p(a) / d epsilon is (a - m) . (dm / d epsilon) / v. With the
means at plus and minus epsilon, m is their mean and dm / d epsilon their difference over 2 epsilon, both up to
epsilon^2. This has the rounding of the difference of two means; a difference of two log-probs has that of two sums over
all elements.

Shapes: G branch groups of K trajectories with n steps, B latents of C x H x W elements.
"""

# Tensor.split has no type.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.algorithm.records import Trajectories
from b2diffurl.diffusion.gaussian import Gaussian


def directional_score(
    action: Float[Tensor, "B C H W"], plus: Gaussian, minus: Gaussian, *, epsilon: float
) -> Float[Tensor, " B"]:
    """Return d log p(action) / d epsilon at epsilon 0, in nats.

    Args:
        action: the latents that were sampled.
        plus: distribution of the action at plus epsilon.
        minus: distribution at minus epsilon, with the same variance.
        epsilon: above 0.
    """
    middle = (plus.mean + minus.mean) / 2
    slope = (plus.mean - minus.mean) / (2 * epsilon)
    return ((action.float() - middle) * slope).sum(dim=(1, 2, 3)) / plus.var


@torch.no_grad()
def trajectory_scores(
    policy: DenoisingPolicy,
    trajectories: Trajectories,
    moved: Callable[[float], AbstractContextManager[None]],
    *,
    epsilon: float,
    batch_size: int,
) -> Float[Tensor, "G K n"]:
    """Return d log p / d epsilon of every step of some trajectories, in nats; two evaluations of the policy per step.

    Args:
        policy: the policy that sampled.
        trajectories: G branch groups of K trajectories.
        moved: returns a context within which the weights are moved this far along the direction.
        epsilon: above 0; the error is of the order of its square.
        batch_size: single steps in one forward pass; changes results by rounding only.
    """
    shape = trajectories.log_probs.shape
    num_branches, num_steps = shape[1:]
    before = trajectories.latents[:, :, trajectories.state_index].flatten(0, 2)
    after = trajectories.latents[:, :, trajectories.state_index + 1].flatten(0, 2)
    step_index = trajectories.step_index.repeat(shape[0] * num_branches)
    group = torch.arange(shape[0]).repeat_interleave(num_branches * num_steps)
    conditioning = policy.denoiser.encode(trajectories.prompts)
    batches = torch.arange(len(before)).split(batch_size)

    def distributions(scale: float) -> list[Gaussian]:
        with moved(scale):
            return [policy.step(before[i], step_index[i], conditioning[group[i]]) for i in batches]

    scores = [
        directional_score(after[i], plus, minus, epsilon=epsilon).cpu()
        for i, plus, minus in zip(batches, distributions(epsilon), distributions(-epsilon), strict=True)
    ]
    return torch.cat(scores).view(shape)
