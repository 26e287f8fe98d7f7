"""A policy and a chain that are real in every respect but size.

Shapes: B latents of 2 x 3 x 3.
"""

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from b2diffurl.diffusion.ddim import DDIM

PROMPTS = ("a cat riding a bike", "a dog playing chess", "a bear washing dishes")


class TinyPolicy(nn.Module):
    """A convolution over the latent, moved by the timestep and by the prompt."""

    latent_shape = (2, 3, 3)

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernel = nn.Parameter(0.3 * torch.randn(2, 2, 3, 3, generator=generator))
        self.by_time = nn.Parameter(0.3 * torch.randn(2, generator=generator))
        self.by_prompt = nn.Parameter(0.3 * torch.randn(len(PROMPTS), 2, generator=generator))

    @property
    def device(self) -> torch.device:
        return self.kernel.device

    def predict(self, x: Tensor, timestep: Tensor, prompts: Sequence[str], *, guidance_scale: float) -> Tensor:
        words = torch.stack([self.by_prompt[PROMPTS.index(prompt)] for prompt in prompts])
        time = timestep.to(x.dtype)[:, None] / 1000
        shift = time * self.by_time + guidance_scale * words
        return nn.functional.conv2d(x, self.kernel, padding=1) + shift[:, :, None, None]


def stable_diffusion_scheduler(**changed: object) -> DDIMScheduler:
    """Stock DDIM as Stable Diffusion configures it, but for what is changed."""
    config: dict[str, object] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }
    return DDIMScheduler(**(config | changed))


def chain(scheduler: DDIMScheduler, *, num_inference_steps: int, eta: float) -> DDIM:
    """The scheduler's chain, taken from it as `Policy.ddim` does."""
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps.clone()
    alpha = scheduler.alphas_cumprod.double()[timesteps]
    last = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64).reshape(1)
    return DDIM(
        timesteps=timesteps,
        alpha=alpha,
        alpha_prev=torch.cat([alpha[1:], last]),
        eta=eta,
        prediction_type=scheduler.config.prediction_type,
    )
