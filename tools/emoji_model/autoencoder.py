"""Stage 1: an `AutoencoderKL` from 32x32 images to 4x8x8 latents."""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from tools.emoji_model.loop import fit, rng
from tools.emoji_model.scenes import SceneSource, any_scene, render_scenes

_KL_WEIGHT = 1e-5
_EDGE_WEIGHT = 0.5
_NUM_SCALING_IMAGES = 1024


def new_autoencoder() -> AutoencoderKL:
    """Build the untrained autoencoder."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


def _edges(x: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def train_autoencoder(
    source: SceneSource, work: Path, *, num_steps: int, seed: int, start: Path | None = None
) -> AutoencoderKL:
    """Train or resume; the loss is L1, L1 of the edges, and a weak KL.

    Args:
        source: the scenes to encode.
        work: folder with the state of the stage.
        num_steps: optimizer steps.
        seed: random seed of weights and data.
        start: directory of a pipeline whose autoencoder is fine-tuned; None to train a new one.
    """
    torch.manual_seed(seed)
    vae = new_autoencoder().to(memory_format=torch.channels_last)
    if start is not None:  # the weights alone: a loaded config contains the directory that it is from
        vae.load_state_dict(AutoencoderKL.from_pretrained(start, subfolder="vae").state_dict())

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [any_scene(source, rng) for _ in range(source.sizes.autoencoder_batch_size)]
        x = render_scenes(source, scenes, rng).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        l1 = (x - y).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(_edges(x), _edges(y), strict=True))
        return l1 + _EDGE_WEIGHT * edge + _KL_WEIGHT * posterior.kl().mean(), {"l1": l1.item()}

    fit("autoencoder", module=vae, loss=loss, num_steps=num_steps, learning_rate=2e-3, work=work, seed=seed)
    return vae


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, source: SceneSource, *, seed: int) -> None:
    """Set `scaling_factor` such that scaled latents have unit standard deviation, as in Stable Diffusion."""
    numbers = rng(seed, 0)
    x = render_scenes(source, [any_scene(source, numbers) for _ in range(_NUM_SCALING_IMAGES)], numbers)
    vae.register_to_config(scaling_factor=round(1 / vae.encode(x).latent_dist.sample().std().item(), 5))
