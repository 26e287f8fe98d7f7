"""Stage 3: the text encoder and the UNet, trained together on latents of scenes with partly false captions.

The noise schedule is Stable Diffusion's; 10 % of the captions are dropped for classifier-free guidance.
"""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.emoji_model.loop import fit, rng
from tools.emoji_model.scenes import SceneSource, captioned_scene, render_scenes
from tools.emoji_model.text import MAX_TOKENS

_ENCODE_BATCH_SIZE = 512
_NO_CAPTION_FRACTION = 0.1
_WIDTH = 64


def new_scheduler() -> DDIMScheduler:
    """Build the scheduler of Stable Diffusion 1.4 as DDIM."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


class Denoiser(nn.Module):
    """Text encoder and UNet as one module, for one optimizer.

    Args:
        tokenizer: gives the size of the vocabulary.
        unet_widths: channels of the UNet's two resolutions.
    """

    def __init__(self, tokenizer: CLIPTokenizer, *, unet_widths: tuple[int, int]) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=2 * _WIDTH, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        self.unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=unet_widths,
            down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=_WIDTH, attention_head_dim=4, norm_num_groups=8,
        ).to(memory_format=torch.channels_last)  # fmt: skip

    def forward(self, x: Tensor, t: Tensor, input_ids: Tensor, caption_index: Int[Tensor, " B"]) -> Tensor:
        """Predict the noise of `x`; `caption_index` picks rows of `input_ids`."""
        text = self.text_encoder(input_ids).last_hidden_state
        return self.unet(x, t, encoder_hidden_states=text[caption_index]).sample


@torch.no_grad()
def encode_captioned_scenes(
    source: SceneSource, vae: AutoencoderKL, *, num: int, seed: int, work: Path
) -> tuple[Float[Tensor, "N 4 8 8"], Float[Tensor, "N 4 8 8"], Int[Tensor, " N"]]:
    """Encode N captioned scenes once: means, standard deviations, and caption indices into `source.prompts`."""
    file = work / "latents.pt"
    if file.exists():
        return tuple(torch.load(file, weights_only=True))
    index_of = {prompt: index for index, prompt in enumerate(source.prompts)}
    means, stds, captions = [], [], []
    for start in range(0, num, _ENCODE_BATCH_SIZE):
        numbers = rng(seed, start)
        pairs = [captioned_scene(source, numbers) for _ in range(_ENCODE_BATCH_SIZE)]
        scenes = [scene for _, scene in pairs]
        x = render_scenes(source, scenes, numbers, varies_places=source.varies_places)
        posterior = vae.encode(x).latent_dist
        means.append(posterior.mean * vae.config.scaling_factor)
        stds.append(posterior.std * vae.config.scaling_factor)
        captions += [index_of[caption] for caption, _ in pairs]
    data = torch.cat(means), torch.cat(stds), torch.tensor(captions)
    torch.save(data, file)
    return data


def train_denoiser(
    source: SceneSource,
    work: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    *,
    num_steps: int,
    num_images: int,
    seed: int,
) -> Denoiser:
    """Train on noise prediction; returns the moving average of the weights."""
    torch.manual_seed(seed)
    denoiser = Denoiser(tokenizer, unet_widths=source.sizes.unet_widths)
    average = copy.deepcopy(denoiser).requires_grad_(False)
    means, stds, captions = encode_captioned_scenes(source, vae, num=num_images, seed=seed + 3, work=work)
    input_ids = tokenizer([*source.prompts, ""], padding="max_length", return_tensors="pt").input_ids
    alphas_cumprod, size = new_scheduler().alphas_cumprod, source.sizes.denoiser_batch_size

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.from_numpy(rng.integers(0, len(means), size))
        noise = torch.from_numpy(rng.standard_normal((2, size, *means.shape[1:]), dtype=np.float32))
        x0 = means[chosen] + stds[chosen] * noise[0]
        t = torch.from_numpy(rng.integers(0, 1000, size))
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        dropped = torch.from_numpy(rng.random(size) < _NO_CAPTION_FRACTION)
        caption = torch.where(dropped, len(input_ids) - 1, captions[chosen])
        x = (a.sqrt() * x0 + (1 - a).sqrt() * noise[1]).contiguous(memory_format=torch.channels_last)
        return F.mse_loss(denoiser(x, t, input_ids, caption), noise[1]), {}

    fit(
        "denoiser", module=denoiser, loss=loss, num_steps=num_steps, learning_rate=1.5e-3, work=work, seed=seed + 4,
        ema=average,
    )  # fmt: skip
    return average.eval()
