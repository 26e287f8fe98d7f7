"""Loads a stock pipeline and splits it into components: UNet, autoencoder, text encoders, scheduler.

The three kinds of source (diffusers directory, hub id, checkpoint file) give the same components.
"""

# diffusers types its configs as dicts, and the components of its pipelines not at all.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTokenizer

from b2diffurl.distributed import choose_device
from b2diffurl.emoji import is_embedded
from b2diffurl.errors import UserError
from b2diffurl.models.memory import ConcreteDtype, Memory
from b2diffurl.models.model_files import config_location, loading, tokenizer_names, upcasts_attention
from b2diffurl.models.model_source import SUPPORTED, ModelSource
from b2diffurl.models.scheduler import ddim_scheduler
from b2diffurl.models.text import StableDiffusionText, StableDiffusionXLText, TextEncoder

StockPipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
_CLASSES: dict[str, type[StockPipeline]] = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
}
# Components that training does not use: they are neither downloaded nor loaded.
_LEFT_OUT: dict[str, dict[str, object]] = {
    "StableDiffusionPipeline": {
        "safety_checker": None, "requires_safety_checker": False, "feature_extractor": None, "image_encoder": None,
    },
    "StableDiffusionXLPipeline": {"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelComponents:
    """The components of a model.

    Attributes:
        unet: the network, in the chosen precision.
        vae: the autoencoder, in float32.
        text: the text encoders with their tokenizers.
        scheduler: stock DDIM with the model's own schedule.
        pipeline: class of the model's stock pipeline.
        has_safety_checker: whether the stock pipeline would filter unsafe images.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: TextEncoder
    scheduler: DDIMScheduler
    pipeline: type[StockPipeline]
    has_safety_checker: bool


def load_components(source: ModelSource | str, *, device: torch.device | str, memory: Memory) -> ModelComponents:
    """Load a model.

    Args:
        source: the model, by source or by name.
        device: device of all components.
        memory: precision of the UNet and the text encoders.

    Raises:
        UserError: the model cannot be found or is not supported, or this machine does not have the device.
    """
    source, device = ModelSource.of(source), choose_device(device)
    dtype = getattr(torch, choose_dtype(source, memory, device=device)[0])
    load = _from_file if source.is_checkpoint else _from_directory
    components = {**_LEFT_OUT[source.index["_class_name"]], **_tokenizers(source)}
    with loading(f"model {source.name!r}"):
        pipe = load(source, dtype, components)
        _check_unet(pipe, source.name)
        _check_weights(pipe, source.name)
        pipe.to(device, silence_dtype_warnings=True)
    return ModelComponents(
        unet=pipe.unet,
        vae=pipe.vae,
        text=_text(pipe),
        scheduler=ddim_scheduler(pipe.scheduler.config, class_name=type(pipe.scheduler).__name__, model=source.name),
        pipeline=type(pipe),
        has_safety_checker=source.has_safety_checker,
    )


def choose_dtype(source: ModelSource, memory: Memory, *, device: str) -> tuple[ConcreteDtype, str]:
    """Return the dtype of the frozen weights on a device, and the reason for it.

    Args:
        source: the model; on CUDA, "auto" reads the config of its UNet, which may download it.
        memory: `base_dtype` is used.
        device: device of the model, not "auto".

    Raises:
        UserError: the config cannot be read.
    """
    if memory.base_dtype != "auto":
        return memory.base_dtype, "as set"
    kind = torch.device(device).type
    if is_embedded(source.name):
        return "float32", "the embedded model is small"
    if kind != "cuda":
        return "float32", f"half precision is slow or incomplete on {kind}"
    if upcasts_attention(source):
        return "bfloat16", "the model's config says that its attention overflows in float16"
    return "float16", "half the memory of float32, and it rounds 8 times finer than bfloat16"


def load_stock_pipeline(source: ModelSource) -> StockPipeline:
    """Load a model as its stock pipeline in float32, with every component that it was saved with.

    Args:
        source: the model.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    with loading(f"model {source.name!r}"):
        if source.is_checkpoint:
            left_out = _LEFT_OUT[source.index["_class_name"]]
            pipe = _from_file(source, torch.float32, {**left_out, **_tokenizers(source)})
        else:
            pipe = _from_directory(source, torch.float32, {})
        _check_unet(pipe, source.name)
        _check_weights(pipe, source.name)
    return pipe


def load_tokenizers(model: ModelSource | str) -> tuple[CLIPTokenizer, ...]:
    """Load a model's tokenizers alone; the same as `ModelSource(model).tokenizers`.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    return ModelSource.of(model).tokenizers


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """Width of a latent element in pixels."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_size(unet: UNet2DConditionModel) -> tuple[int, int]:
    """Height and width of the latents that a UNet was trained on."""
    size = unet.config.sample_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# The three kinds of source


def _tokenizers(source: ModelSource) -> dict[str, CLIPTokenizer]:
    """The tokenizers by the names of their components, so that the pipeline does not read them again."""
    return dict(zip(tokenizer_names(source.index), source.tokenizers, strict=True))


def _from_directory(source: ModelSource, dtype: torch.dtype, components: dict[str, Any]) -> Any:
    dtypes = {"default": dtype, "vae": torch.float32}
    return _CLASSES[source.index["_class_name"]].from_pretrained(source.location, dtype=dtypes, **components)


def _from_file(source: ModelSource, dtype: torch.dtype, components: dict[str, Any]) -> Any:
    pipeline = _CLASSES[source.index["_class_name"]]
    pipe = pipeline.from_single_file(source.location, config=config_location(source), dtype=torch.float32, **components)
    for part in (pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if part is not None and dtype != torch.float32:
            part.to(dtype)
    return pipe


# Checks and conversions


def _check_unet(pipe: Any, model: str) -> None:
    config, channels = pipe.unet.config, pipe.vae.config.latent_channels
    if not config.in_channels == config.out_channels == channels:
        raise UserError(
            f"model {model!r} has a UNet from {config.in_channels} to {config.out_channels} channels over latents of "
            f"{channels} channels, so it has other inputs than text; supported is {SUPPORTED}."
        )
    if config.time_cond_proj_dim is not None:
        raise UserError(f"model {model!r} is distilled with guidance as an input; use its undistilled base.")


def _check_weights(pipe: Any, model: str) -> None:
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module: torch.nn.Module | None = getattr(pipe, part, None)
        for name, weight in module.named_parameters() if module is not None else ():
            if not bool(torch.isfinite(weight).all()):
                raise UserError(f"model {model!r} has a weight that is not finite, {part}.{name}; use another copy.")


def _text(pipe: Any) -> TextEncoder:
    if isinstance(pipe, StableDiffusionPipeline):
        return StableDiffusionText(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)
    height, width = latent_size(pipe.unet)
    factor = vae_scale_factor(pipe.vae)
    return StableDiffusionXLText(
        tokenizers=(pipe.tokenizer, pipe.tokenizer_2),
        text_encoders=(pipe.text_encoder, pipe.text_encoder_2),
        image_size=(height * factor, width * factor),
        zeros_for_empty=bool(pipe.config.force_zeros_for_empty_prompt),
    )
