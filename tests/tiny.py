"""A policy and a chain that are real in every respect but size.

Shapes: B latents of 2 x 4 x 4.
"""

import copy
import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from b2diffurl.diffusion.ddim import DDIM

PROMPTS = ("a cat riding a bike", "a dog playing chess", "a bear washing dishes")


class TinyPolicy(nn.Module):
    """What removes the noise from normal latents, sqrt(1 - a_t) x, and a bit of its own by place, time and prompt."""

    latent_shape = (2, 4, 4)

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernel = nn.Parameter(0.05 * torch.randn(2, 2, 3, 3, generator=generator))
        self.by_time = nn.Parameter(0.1 * torch.randn(2, generator=generator))
        self.by_prompt = nn.Parameter(0.1 * torch.randn(len(PROMPTS), 2, generator=generator))
        for name, made in copy.deepcopy(dict(self.named_parameters())).items():
            self.register_buffer(f"made_{name}", made.detach())

    @contextmanager
    def reference(self) -> Generator[None]:
        """Within this context it is the policy as it was made."""
        trained = {name: parameter.data for name, parameter in self.named_parameters()}
        for name, parameter in self.named_parameters():
            parameter.data = self.get_buffer(f"made_{name}")
        try:
            yield
        finally:
            for name, parameter in self.named_parameters():
                parameter.data = trained[name]

    @property
    def device(self) -> torch.device:
        return self.kernel.device

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the number of each prompt."""
        return torch.tensor([PROMPTS.index(prompt) for prompt in prompts])

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Tensor, *, guidance_scale: float) -> Tensor:
        words = self.by_prompt[conditioning]
        time = (timestep.to(x.dtype) / 1000)[:, None]
        shift = time * self.by_time + guidance_scale * words
        noise = torch.sin(math.pi / 2 * time)[:, :, None, None] * x
        return noise + nn.functional.conv2d(x, self.kernel, padding=1) + shift[:, :, None, None]


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
    scheduler = DDIMScheduler.from_config(config | changed)
    assert isinstance(scheduler, DDIMScheduler)
    return scheduler


def chain(scheduler: DDIMScheduler, *, num_inference_steps: int, eta: float) -> DDIM:
    """The scheduler's chain, taken from it as `TextToImageModel.ddim` does."""
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps.clone()
    alpha = scheduler.alphas_cumprod.double()[timesteps]
    last = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64).reshape(1)
    return DDIM(
        timesteps=timesteps,
        alpha=alpha,
        alpha_prev=torch.cat([alpha[1:], last]),
        eta=eta,
        prediction_type=scheduler.config["prediction_type"],
    )
