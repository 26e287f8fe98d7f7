"""Stage 4: the captioner of the rewards `bert:emoji` and `bert:emoji-objects`, trained on images with true labels.

Half of the images are renders, half went through the autoencoder with noise on their latents, as outputs of the model
have it; all are augmented as for the judges.
"""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from b2diffurl.emoji.captioner import SceneCaptioner
from tools.emoji_model.judges import augment, targets_of
from tools.emoji_model.loop import fit
from tools.emoji_model.scenes import SceneSource, any_scene, render_scenes

_BATCH_SIZE = 64
_MAX_LATENT_NOISE = 0.2  # standard deviation, in units of that of the latents


def train_captioner(
    source: SceneSource, work: Path, vae: AutoencoderKL, *, num_steps: int, seed: int
) -> SceneCaptioner:
    """Train or resume; the loss is the cross-entropy of every part, a part that is absent included.

    Args:
        source: the scenes to describe.
        work: folder with the state of the stage.
        vae: the autoencoder of the world's model.
        num_steps: optimizer steps of 64 images.
        seed: random seed of weights and data.
    """
    torch.manual_seed(seed)
    captioner = SceneCaptioner(source.world).to(memory_format=torch.channels_last)

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [any_scene(source, rng) for _ in range(_BATCH_SIZE)]
        x = render_scenes(source, scenes, rng)
        half = _BATCH_SIZE // 2
        x = augment(torch.cat([x[:half], decode_noisy(vae, x[half:], rng)]), rng)
        logits = captioner(((x + 1) / 2).contiguous(memory_format=torch.channels_last))
        contents, _styles = targets_of(source.world, scenes)
        value = torch.stack([F.cross_entropy(each, contents[:, index]) for index, each in enumerate(logits)]).sum()
        right = torch.stack([each.argmax(-1) == contents[:, index] for index, each in enumerate(logits)]).all(dim=0)
        numbers = {"renders right": right[:half].float().mean().item(), "decodes": right[half:].float().mean().item()}
        return value, numbers

    fit("captioner", module=captioner, loss=loss, num_steps=num_steps, learning_rate=2e-3, work=work, seed=seed + 5)
    return captioner


@torch.no_grad()
def decode_noisy(
    vae: AutoencoderKL, x: Float[Tensor, "B 3 32 32"], rng: np.random.Generator
) -> Float[Tensor, "B 3 32 32"]:
    """Encode images in [-1, 1], add noise of random strength to the latents, and decode them."""
    latents = vae.encode(x).latent_dist.mean
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, _MAX_LATENT_NOISE, (len(x), 1, 1, 1))).float()
    return vae.decode(latents + noise * strength / vae.config.scaling_factor).sample.clamp(-1, 1)
