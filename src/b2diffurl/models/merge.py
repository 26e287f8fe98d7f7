"""Merge an adapter into a model's weights: a complete pipeline, without an adapter."""

import math
from pathlib import Path

from b2diffurl.errors import UserError
from b2diffurl.models.adapted_unet import AdaptedUNet
from b2diffurl.models.adapter_interval import read_adapter_interval
from b2diffurl.models.export import make_readable
from b2diffurl.models.model_source import ModelSource, check_lora
from b2diffurl.models.pipeline import load_stock_pipeline


def check_mergeable(lora: Path, *, scale: float) -> None:
    """Refuse an adapter or a scale that cannot be merged.

    Raises:
        UserError: the folder does not exist, its adapter has to be off in some steps, or the scale is 0 or not finite.
    """
    check_lora(lora)
    if not math.isfinite(scale) or scale == 0:
        raise UserError(f"scale is {scale}; give a finite number other than 0, such as 1 for the adapter as trained.")
    interval = read_adapter_interval(lora)
    if interval is not None:
        raise UserError(
            f"lora {lora} was trained with lora.interval to be on in the last {interval.length} of "
            f"{interval.num_inference_steps} steps only, and merged weights are the same in all steps; load it as an "
            "adapter instead."
        )


def merge_adapter(model: ModelSource | str, lora: Path, output: Path, *, scale: float = 1.0) -> None:
    """Write a model with an adapter merged into its UNet: a diffusers pipeline in float32, in safetensors files.

    The weight W of each adapted layer becomes W + scale * (alpha / rank) * (B @ A). All other components are those of
    the model, including its scheduler and safety checker.

    Args:
        model: its source, or its name: "emoji", "emoji-objects", a local diffusers directory, a .safetensors checkpoint
            file, or a hub id.
        lora: adapter folder.
        output: output folder.
        scale: factor of what the adapter adds: 1 as trained.

    Raises:
        UserError: the model or the adapter cannot be loaded, do not fit together, or cannot be merged.
    """
    check_mergeable(lora, scale=scale)
    source = ModelSource.of(model)
    pipe = load_stock_pipeline(source)
    adapted = AdaptedUNet(pipe.unet, pipeline=type(pipe), name=source.name)
    adapted.load_lora(lora)
    adapted.unet.fuse_lora(lora_scale=scale)
    adapted.unet.unload_lora()
    pipe.save_pretrained(output, safe_serialization=True)
    make_readable(output)
