"""Sample pictures from a policy.

Shapes: B pictures of 3 x H x W in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.algorithm.rollout import Denoiser, NoiseKey, sample_branches
from b2diffurl.diffusion.ddim import DDIM

# Streams of noise that no round has, so that evaluation never sees the noise of training.
EVALUATION_STREAM = 2**32
SAMPLES_STREAM = 2**32 + 1
PROBE_STREAM = 2**32 + 2


@runtime_checkable
class Decoder(Denoiser, Protocol):
    """What evaluation needs of a policy: sampling, and pictures."""

    def decode(self, latents: Tensor) -> Tensor:
        """Give pictures in [0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """What a policy draws.

    Attributes:
        images: in [0, 1], on the CPU.
        prompts: one a picture.
    """

    images: Float[Tensor, "B 3 H W"]
    prompts: tuple[str, ...]


def draw_pictures(
    policy: Decoder,
    ddim: DDIM,
    prompts: Sequence[str],
    *,
    num_images: int,
    guidance_scale: float,
    seed: int,
    stream: int = EVALUATION_STREAM,
    only: range | None = None,
    chunk_size: int = 64,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Pictures:
    """Sample `num_images` pictures, the prompts in turn; picture i depends on (seed, stream, i) alone.

    Where `only` is given, just these of them.
    """
    only = range(num_images) if only is None else only
    wanted = tuple(prompts[i % len(prompts)] for i in only)
    images: list[Tensor] = []
    for start in range(only.start, only.stop, chunk_size):
        chunk = wanted[start - only.start : start - only.start + chunk_size]
        rollout = sample_branches(
            policy,
            ddim,
            prompts=chunk,
            num_interval_steps=1,
            num_branches=1,
            guidance_scale=guidance_scale,
            noise=NoiseKey(seed=seed, stream=stream, first_trunk=start),
            chunk_size=chunk_size,
        )
        images.append(policy.decode(rollout.final_latents))
        on_progress(len(chunk))
    return Pictures(images=torch.cat(images), prompts=wanted)
