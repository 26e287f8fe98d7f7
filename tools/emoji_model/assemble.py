"""Save the trained networks, all rounded to half precision: a pipeline, a CLIP, an oracle and a captioner.

The model card measures these files. diffusers reads half-precision files as float32; transformers keeps the dtype of a
file, so its two models are stored as float32 with the rounded values.
"""

# diffusers annotates configs as dicts, outputs as tuples, and tuples of any length as tuples of one.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from b2diffurl.emoji.captioner import WEIGHTS_FILE as CAPTIONER_FILE
from b2diffurl.emoji.captioner import SceneCaptioner
from b2diffurl.emoji.oracle import WEIGHTS_FILE as ORACLE_FILE
from b2diffurl.emoji.oracle import SceneOracle
from tools.emoji_model.denoiser import Denoiser, new_scheduler
from tools.emoji_model.judges import CLIP_MEAN, CLIP_STD


def save_pipeline(directory: Path, *, vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer) -> None:
    """Save the text-to-image model in diffusers format."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16)
    pipe.text_encoder.float()
    pipe.save_pretrained(directory)
    pipe.to(torch.float32)


def save_clip(directory: Path, *, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Save the CLIP of the reward in transformers format."""
    clip.half().float().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=CLIP_MEAN, image_std=CLIP_STD
    ).save_pretrained(directory)


def save_oracle(directory: Path, *, oracle: SceneOracle) -> None:
    """Save the oracle."""
    _save_half(oracle, directory / ORACLE_FILE)


def save_captioner(directory: Path, *, captioner: SceneCaptioner) -> None:
    """Save the captioner."""
    _save_half(captioner, directory / CAPTIONER_FILE)


def _save_half(module: nn.Module, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in module.state_dict().items()
    }
    save_file(state, file)
