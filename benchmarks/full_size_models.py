"""Stable Diffusion 1.x, 2.x and XL, and the ViT-H-14 CLIP, in full size with random weights, in diffusers format.

Nothing is downloaded: memory and speed depend on classes and shapes only. The tokenizer is the small one of the
embedded model.

    python benchmarks/full_size_models.py sd1 DIRECTORY
"""

# diffusers annotates configs as dicts, and tuples of any length as tuples of one.
# pyright: reportArgumentType=false

import argparse
from pathlib import Path
from typing import Any

import torch
from activations import CONFIGS
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from b2diffurl import emoji

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_TEXT: dict[str, dict[str, Any]] = {
    "clip-l": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "clip-h": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    "clip-bigg": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "hidden_act": "gelu", "projection_dim": 1280,
    },
}  # fmt: skip


def build(family: str, directory: Path, *, dtype: torch.dtype, seed: int = 0) -> Path:
    """Save a full-size model, unless it exists.

    Args:
        family: "sd1", "sd2" or "sdxl".
        directory: output folder.
        dtype: dtype of the weights of the UNet and the text encoders.
        seed: random seed of the weights.
    """
    if (directory / "model_index.json").is_file():
        return directory
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(emoji.model_dir(), subfolder="tokenizer")
    parts: dict[str, Any] = {"unet": UNet2DConditionModel(**CONFIGS[family]).to(dtype), "tokenizer": tokenizer}
    if family == "sdxl":
        pipe = StableDiffusionXLPipeline(
            **parts,
            vae=_vae(scaling_factor=0.13025),
            text_encoder=CLIPTextModel(_text("clip-l", tokenizer)).to(dtype),
            text_encoder_2=CLIPTextModelWithProjection(_text("clip-bigg", tokenizer)).to(dtype),
            tokenizer_2=tokenizer,
            scheduler=EulerDiscreteScheduler(**_BETAS, steps_offset=1, timestep_spacing="leading"),
            add_watermarker=False,
        )
    else:
        stable_diffusion_1 = family == "sd1"
        scheduler = PNDMScheduler(**_BETAS, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1)
        if not stable_diffusion_1:
            scheduler = DDIMScheduler(
                **_BETAS, set_alpha_to_one=False, steps_offset=1, clip_sample=False, prediction_type="v_prediction"
            )
        pipe = StableDiffusionPipeline(
            **parts,
            vae=_vae(scaling_factor=0.18215),
            text_encoder=CLIPTextModel(_text("clip-l" if stable_diffusion_1 else "clip-h", tokenizer)).to(dtype),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(directory)
    return directory


def build_clip(directory: Path, *, seed: int = 0) -> Path:
    """Save a CLIP with the size of ViT-H-14, the reward of the paper, in float32, unless it exists."""
    if (directory / "config.json").is_file():
        return directory
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(emoji.model_dir(), subfolder="tokenizer")
    config = CLIPConfig(
        text_config=_text("clip-h", tokenizer, num_hidden_layers=24, projection_dim=1024).to_dict(),
        vision_config={
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
            "patch_size": 14, "image_size": 224, "hidden_act": "gelu", "projection_dim": 1024,
        },
        projection_dim=1024,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(directory)
    CLIPImageProcessor().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _vae(**changed: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        **changed,
    )


def _text(name: str, tokenizer: CLIPTokenizer, **changed: Any) -> CLIPTextConfig:
    # 49,408 is the vocabulary size of CLIP; the small tokenizer uses only its beginning.
    tokens = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return CLIPTextConfig(**{"vocab_size": 49_408, "max_position_embeddings": 77} | tokens | _TEXT[name] | changed)


def main() -> None:
    """Save one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=[*CONFIGS, "clip"])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    arguments = parser.parse_args()
    if arguments.family == "clip":
        build_clip(arguments.directory)
    else:
        build(arguments.family, arguments.directory, dtype=getattr(torch, arguments.dtype))


if __name__ == "__main__":
    main()
