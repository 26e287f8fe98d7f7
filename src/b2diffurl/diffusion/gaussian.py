"""An isotropic Gaussian over latents: the policy's distribution of one action.

Shapes: B latents of C x H x W elements; `var` is one number a latent.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

LogProbReduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """N(mean, var I), one for each of B latents, in float32.

    Attributes:
        mean: of every element.
        var: variance of every element of a latent, >= 0; 0 is a deterministic step, which has no log-prob.
    """

    mean: Float[Tensor, "B C H W"]
    var: Float[Tensor, " B"]

    def sample(self, noise: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Move standard normal noise to this Gaussian."""
        return self.mean + _per_latent(self.var.sqrt()) * noise

    def log_prob(self, x: Float[Tensor, "B C H W"], *, reduction: LogProbReduction = "mean") -> Float[Tensor, " B"]:
        """Log-density of `x`, averaged over a latent's elements as in DDPO's public code, or summed, in nats.

        Args:
            x: latents as they are stored: rounded to their storage type *before*, never after.
            reduction: "mean" over the elements (the reference's unit) or "sum" (the true log-density).

        Raises:
            ValueError: a variance is 0: a deterministic step has no log-prob.
        """
        if not bool((self.var > 0).all()):
            raise ValueError("A step with variance 0 is no action and has no log-prob.")
        var = _per_latent(self.var)
        element = -((x.float() - self.mean) ** 2) / (2 * var) - 0.5 * torch.log(2 * math.pi * var)
        return element.mean(dim=(1, 2, 3)) if reduction == "mean" else element.sum(dim=(1, 2, 3))

    def kl(self, other: "Gaussian") -> Float[Tensor, " B"]:
        """KL(self || other) in nats, for two Gaussians of the same variance: |mean - mean'|^2 / (2 var)."""
        return ((self.mean - other.mean) ** 2).sum(dim=(1, 2, 3)) / (2 * self.var)


def kl_of_log_ratios(mean_square: float, *, num_elements: int) -> float:
    """KL(old || new) in nats an element, from log-ratios of actions that old drew.

    A step of KL D has log-ratios of mean -D and variance 2 D, as both are Gaussians of one variance: their mean square
    is D^2 + 2 D, solved here for D. For small D this is half the mean square (Schulman 2020, "Approximating KL
    divergence", estimator k2), which overstates D by the factor 1 + D / 2; on Stable Diffusion's 16,384 elements D is
    large even where each element has hardly moved. The root of twice the result is how far the mean has moved, in
    standard deviations of the step's noise.

    Args:
        mean_square: of log-ratios in nats, summed over a latent's elements.
        num_elements: of a latent.
    """
    return mean_square / (1 + math.sqrt(1 + mean_square)) / num_elements if mean_square < math.inf else math.inf


def _per_latent(value: Float[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
    return value.view(-1, 1, 1, 1)
