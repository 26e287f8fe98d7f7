"""An isotropic Gaussian over latents: the policy's distribution of one action.

Shapes: B latents of C x H x W elements; `var` is one number per latent.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

LogProbReduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """N(mean, var I) for each of B latents, in float32.

    Attributes:
        mean: mean of each element.
        var: variance of the elements of each latent, >= 0; 0 is a deterministic step, which has no log-prob.
    """

    mean: Float[Tensor, "B C H W"]
    var: Float[Tensor, " B"]

    def __getitem__(self, index: Int[Tensor, " M"]) -> "Gaussian":
        """Return the Gaussians of some latents, which may repeat."""
        return Gaussian(mean=self.mean[index], var=self.var[index])

    def sample(self, noise: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Transform standard normal noise to a sample of this Gaussian."""
        return self.mean + _per_latent(self.var.sqrt()) * noise

    def log_prob(self, x: Float[Tensor, "B C H W"], *, reduction: LogProbReduction = "mean") -> Float[Tensor, " B"]:
        """Compute the log-density of `x` in nats, summed or, as in DDPO's public code, averaged over the elements.

        Args:
            x: latents as stored: rounded to their storage dtype *before* this call, never after.
            reduction: "mean" over the elements (as in the reference implementation) or "sum" (the true log-density).

        Raises:
            ValueError: a variance is 0; a deterministic step has no log-prob.
        """
        if not bool((self.var > 0).all()):
            raise ValueError("A step with variance 0 is deterministic and has no log-prob.")
        var = _per_latent(self.var)
        element = -((x.float() - self.mean) ** 2) / (2 * var) - 0.5 * torch.log(2 * math.pi * var)
        return element.mean(dim=(1, 2, 3)) if reduction == "mean" else element.sum(dim=(1, 2, 3))

    def kl(self, other: "Gaussian") -> Float[Tensor, " B"]:
        """Compute KL(self || other) in nats for two Gaussians of the same variance: |mean - mean'|^2 / (2 var)."""
        return ((self.mean - other.mean) ** 2).sum(dim=(1, 2, 3)) / (2 * self.var)


def kl_of_log_ratios(mean_square: float, *, num_elements: int) -> float:
    """Estimate KL(old || new) in nats per element from log-ratios of actions sampled from old.

    Both distributions are Gaussians of equal variance, so for a KL of D the log-ratios have mean -D and variance 2 D.
    Their mean square is D^2 + 2 D, solved here for D. For small D this is half the mean square (Schulman 2020,
    "Approximating KL divergence", estimator k2), which overestimates D by the factor 1 + D / 2; with Stable Diffusion's
    16,384 elements D is large even if each element has hardly moved. The square root of twice the result is the
    distance between the means, in standard deviations of the step's noise.

    Args:
        mean_square: mean square of the log-ratios in nats, each summed over the elements of a latent.
        num_elements: number of elements of a latent.
    """
    return mean_square / (1 + math.sqrt(1 + mean_square)) / num_elements if mean_square < math.inf else math.inf


def _per_latent(value: Float[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
    return value.view(-1, 1, 1, 1)
