"""Stable Diffusion 1.x, 2.x and XL, real but for size and random weights; and 1.x as one checkpoint file.

Latents of 4 x 8 x 8, pictures of 16 x 16 pixels.
"""

# diffusers types its configs as dicts, and its tuples of any length as tuples of one.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportAssignmentType=false, reportCallIssue=false

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from b2diffurl import emoji

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_WIDTH = 32  # of the text models


def tiny_sd1(directory: Path) -> Path:
    """Stable Diffusion 1.x: one text model, epsilon, PNDM as on the hub."""
    torch.manual_seed(1)
    scheduler = PNDMScheduler(**_BETAS, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1)
    _save_sd(directory, scheduler, _unet(cross_attention_dim=_WIDTH))
    return directory


def tiny_sd2(directory: Path) -> Path:
    """Stable Diffusion 2.x: v-prediction, linear projections, attention heads by width."""
    torch.manual_seed(2)
    scheduler = DDIMScheduler(
        **_BETAS, set_alpha_to_one=False, steps_offset=1, clip_sample=False, prediction_type="v_prediction"
    )
    unet = _unet(cross_attention_dim=_WIDTH, use_linear_projection=True, attention_head_dim=(2, 4))
    _save_sd(directory, scheduler, unet)
    return directory


def tiny_sdxl(directory: Path, *, force_zeros_for_empty_prompt: bool = True) -> Path:
    """Stable Diffusion XL: two text models, size conditioning, Euler as on the hub, latents with mean and deviation."""
    torch.manual_seed(3)
    unet = _unet(
        cross_attention_dim=2 * _WIDTH,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + _WIDTH,
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.1, 0.9, 1.2, 1.0]),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(hidden_act="gelu")),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(pad_token="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipe.save_pretrained(directory)
    return directory


BUILDERS: dict[str, Callable[[Path], Path]] = {"sd1": tiny_sd1, "sd2": tiny_sd2, "sdxl": tiny_sdxl}


def tiny_tokenizer(**changed: Any) -> CLIPTokenizer:
    """The embedded model's tokenizer, a small real one."""
    return CLIPTokenizer.from_pretrained(emoji.model_dir(), subfolder="tokenizer", **changed)


def _save_sd(directory: Path, scheduler: Any, unet: UNet2DConditionModel) -> None:
    pipe = StableDiffusionPipeline(
        vae=_vae(scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=tiny_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(directory)


def _unet(**changed: Any) -> UNet2DConditionModel:
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
    }
    return _strong(UNet2DConditionModel(**config | changed))


def _vae(**changed: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        **changed,
    )


def _text_config(**changed: Any) -> CLIPTextConfig:
    tokenizer = tiny_tokenizer()
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "projection_dim": _WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**config | changed)


def _strong(module: UNet2DConditionModel) -> UNet2DConditionModel:
    """Random weights whose cross-attention is strong enough for prompts to show."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                parameter.mul_(3.0)
    return module


# The layout of the original Stable Diffusion code (the inverse of diffusers' convert_ldm_*_checkpoint)


def write_checkpoint(directory: Path, file: Path, *, with_config: bool) -> Path:
    """Write a tiny 1.x model as one checkpoint file, with or without its configuration beside it."""
    pipe = StableDiffusionPipeline.from_pretrained(directory)
    num_levels = len(pipe.vae.config.block_out_channels)
    tensors = {f"model.diffusion_model.{_unet_key(k)}": v for k, v in pipe.unet.state_dict().items()}
    tensors |= {f"first_stage_model.{_vae_key(k, num_levels)}": v for k, v in pipe.vae.state_dict().items()}
    for key, value in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    if with_config:
        shutil.copytree(
            directory, file.parent, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.bin")
        )
    return file


_RESNET_KEYS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_KEYS = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
}


def _unet_key(key: str) -> str:
    top: dict[str, str] = DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"]
    if key in top:
        return top[key]
    for new, old in _RESNET_KEYS.items() if ".resnets." in key else ():
        key = key.replace(new, old)
    per_level = 2  # layers_per_block + 1

    def place(found: re.Match[str]) -> str:
        side, level, kind, index = found[1], int(found[2]), found[3], int(found[4])
        first = 1 if side == "down" else 0
        blocks = "input_blocks" if side == "down" else "output_blocks"
        if kind == "downsamplers":
            return f"{blocks}.{first + level * per_level + 1}.0.op."
        if kind == "upsamplers":
            return f"{blocks}.{first + level * per_level + 1}.2.conv."
        return f"{blocks}.{first + level * per_level + index}.{0 if kind == 'resnets' else 1}."

    key = re.sub(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(?:conv\.(?=weight|bias))?", place, key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}", key)
    return key.replace("mid_block.attentions.0", "middle_block.1")


def _vae_key(key: str, num_levels: int) -> str:
    top: dict[str, str] = DIFFUSERS_TO_LDM_MAPPING["vae"]
    if key in top:
        return top[key]
    key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{num_levels - 1 - int(found[1])}", key)
    key = key.replace("down_blocks", "down").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("resnets", "block")
    for new, old in _VAE_KEYS.items():
        key = key.replace(new, old)
    return key
