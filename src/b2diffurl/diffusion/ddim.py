"""The DDIM transition with eta > 0 as a Gaussian policy (arXiv 2010.02502, equations 12 and 16).

One stateless function serves sampling and replay. In the paper's letters, with a_t = alphas_cumprod[t]:

    x0_hat = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t)
    var    = eta^2 (1 - a_prev) / (1 - a_t) (1 - a_t / a_prev)
    mean   = sqrt(a_prev) x0_hat + sqrt(1 - a_prev - var) eps

Shapes: B latents of C x H x W elements, T denoising steps, step 0 is the first (from x_T).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.diffusion.gaussian import Gaussian

PredictionType = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DDIM:
    """The chain of T denoising steps.

    Attributes:
        timesteps: timestep of the model at each step, descending, as set by the scheduler.
        alpha: a_t at each step, float64.
        alpha_prev: a_prev at each step, float64; the last is the scheduler's `final_alpha_cumprod`.
        eta: noise scale, > 0; the paper uses 1.
        prediction_type: quantity that the network predicts.
    """

    timesteps: Int[Tensor, " T"]
    alpha: Float[Tensor, " T"]
    alpha_prev: Float[Tensor, " T"]
    eta: float
    prediction_type: PredictionType = "epsilon"

    @property
    def num_steps(self) -> int:
        """Number of denoising steps T."""
        return len(self.timesteps)

    @property
    def var(self) -> Float[Tensor, " T"]:
        """Variance of each step, float64."""
        a, a_prev = self.alpha, self.alpha_prev
        return self.eta**2 * (1 - a_prev) / (1 - a) * (1 - a / a_prev)

    @property
    def sensitivity(self) -> Float[Tensor, " T"]:
        """Sensitivity of each step's log-prob to the network's output: |d mean / d output| / sqrt(var), float64.

        The magnitude of the gradient at a step is this times noise. For Stable Diffusion's 20 steps it is 0.6 to 1.1,
        except 5.4 at the second-to-last step, which would dominate all others. Infinite for a step without noise.
        """
        a, a_prev = self.alpha, self.alpha_prev
        direction = (1 - a_prev - self.var).clamp(min=0).sqrt()
        d_x0, d_eps = {
            "epsilon": (-((1 - a) / a).sqrt(), torch.ones_like(a)),
            "sample": (torch.ones_like(a), -(a / (1 - a)).sqrt()),
            "v_prediction": (-(1 - a).sqrt(), a.sqrt()),
        }[self.prediction_type]
        return (a_prev.sqrt() * d_x0 + direction * d_eps).abs() / self.var.sqrt()

    def is_action(self, step: int) -> bool:
        """Whether a step adds noise. A step without noise is taken but never trained."""
        return bool(self.var[step] > 0)

    def transition(
        self, model_output: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"], step_index: Int[Tensor, " B"]
    ) -> Gaussian:
        """Compute the distribution of the next latents.

        Args:
            model_output: prediction of the network at `timesteps[step_index]`, after guidance.
            x: latents x_t.
            step_index: step of each latent, 0 to T - 1; may differ within a batch.

        Returns:
            The Gaussian in float32 on the device of `x`.
        """
        index = step_index.to(self.alpha.device)
        a, a_prev, var = self.alpha[index], self.alpha_prev[index], self.var[index]
        direction = (1 - a_prev - var).clamp(min=0).sqrt()
        coefficients = torch.stack([a.sqrt(), (1 - a).sqrt(), a_prev.sqrt(), direction, var])
        coefficients = coefficients.to(x.device, torch.float32)
        root_a, root_1_a, root_a_prev, direction = (c.view(-1, 1, 1, 1) for c in coefficients[:4])
        out, x = model_output.float(), x.float()
        if self.prediction_type == "epsilon":
            eps, x0_hat = out, (x - root_1_a * out) / root_a
        elif self.prediction_type == "sample":
            eps, x0_hat = (x - root_a * out) / root_1_a, out
        else:
            eps, x0_hat = root_a * out + root_1_a * x, root_a * x - root_1_a * out
        return Gaussian(mean=root_a_prev * x0_hat + direction * eps, var=coefficients[4])
