"""Loads a stock pipeline and takes it apart: UNet, autoencoder, text side, scheduler.

The three kinds of source (diffusers directory, hub id, checkpoint file) end in the same parts.
"""

# diffusers types its configs as dicts, and its pipelines' parts not at all.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    SingleFileComponentError,
    infer_diffusers_model_type,
)
from safetensors import safe_open
from transformers import CLIPTokenizer

from b2diffurl.errors import UserError
from b2diffurl.models.memory import Memory
from b2diffurl.models.model_source import SUPPORTED, check_pipeline, is_checkpoint, resolve_model
from b2diffurl.models.text import StableDiffusionText, StableDiffusionXLText, TextEncoder

StockPipeline = StableDiffusionPipeline | StableDiffusionXLPipeline
_CLASSES: dict[str, type[StockPipeline]] = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
}
_MADE_UP_TOKENS = 2  # where a tokenizer's files are missing, transformers makes one up, and all prompts are noise
_FAMILIES = {"v1": "StableDiffusionPipeline", "v2": "StableDiffusionPipeline", "xl_base": "StableDiffusionXLPipeline"}
# Parts that training has no use for: they are neither downloaded nor loaded.
_LEFT_OUT: dict[str, dict[str, object]] = {
    "StableDiffusionPipeline": {
        "safety_checker": None, "requires_safety_checker": False, "feature_extractor": None, "image_encoder": None,
    },
    "StableDiffusionXLPipeline": {"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """A model, taken apart.

    Attributes:
        unet: the network, in the number format asked for.
        vae: the autoencoder, in float32.
        text: the text side.
        scheduler: stock DDIM with the model's own schedule.
        pipeline: the stock class that the model came as.
        has_safety_checker: whether the stock pipeline would look for unsafe pictures.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: TextEncoder
    scheduler: DDIMScheduler
    pipeline: type[StockPipeline]
    has_safety_checker: bool


def load_parts(model: str, *, device: torch.device | str, memory: Memory) -> Parts:
    """Load a model.

    Args:
        model: "emoji", a diffusers directory, a .safetensors checkpoint, or a hub id.
        device: where it goes.
        memory: number format of the UNet and the text encoders.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    source = resolve_model(model)
    index = _index(source, model)
    dtype = getattr(torch, memory.base_dtype)
    load = _from_file if is_checkpoint(source) else _from_directory
    try:
        pipe = load(source, index["_class_name"], dtype)
    except (OSError, ValueError, SingleFileComponentError) as error:
        raise UserError(f"model {model!r} could not be loaded: {_brief(error)}.") from error
    _check_unet(pipe, model)
    pipe.to(device, silence_dtype_warnings=True)
    return Parts(
        unet=pipe.unet,
        vae=pipe.vae,
        text=_text(pipe),
        scheduler=_scheduler(pipe, model),
        pipeline=type(pipe),
        has_safety_checker=_has_safety_checker(source, index),
    )


def has_safety_checker(model: str) -> bool:
    """Whether the stock pipeline would look for unsafe pictures; ours has no such part.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    source = resolve_model(model)
    return _has_safety_checker(source, _index(source, model))


def _has_safety_checker(source: str, index: Mapping[str, Any]) -> bool:
    return not is_checkpoint(source) and bool((index.get("safety_checker") or [None])[0])


def load_tokenizers(model: str) -> tuple[CLIPTokenizer, ...]:
    """Load a model's tokenizers alone (XL has two), to check prompts before anything heavy is loaded.

    Raises:
        UserError: the model cannot be found or is not supported.
    """
    source = resolve_model(model)
    names = [name for name, part in _index(source, model).items() if name.startswith("tokenizer") and part[0]]
    config = _checkpoint_config(source, model) if is_checkpoint(source) else source
    try:
        found = tuple(CLIPTokenizer.from_pretrained(config, subfolder=name) for name in sorted(names))
    except OSError as error:
        raise UserError(f"model {model!r} could not be loaded: {_brief(error)}.") from error
    if not found or min(len(tokenizer) for tokenizer in found) <= _MADE_UP_TOKENS:
        raise UserError(f"model {model!r} could not be loaded: it has no tokenizer; save it with the model.")
    return found


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """Pixels a latent element is wide."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latent_size(unet: UNet2DConditionModel) -> tuple[int, int]:
    """Height and width of the latents that a UNet was trained on."""
    size = unet.config.sample_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# The three kinds of source


def _from_directory(source: str, class_name: str, dtype: torch.dtype) -> Any:
    dtypes = {"default": dtype, "vae": torch.float32}
    return _CLASSES[class_name].from_pretrained(source, dtype=dtypes, **_LEFT_OUT[class_name])


def _from_file(source: str, class_name: str, dtype: torch.dtype) -> Any:
    config = _checkpoint_config(source, source)
    pipe = _CLASSES[class_name].from_single_file(source, config=config, dtype=torch.float32, **_LEFT_OUT[class_name])
    for part in (pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
        if part is not None and dtype != torch.float32:
            part.to(dtype)
    return pipe


def _index(source: str, model: str) -> Mapping[str, Any]:
    """A supported model's model_index.json, wherever it lies."""
    at = _checkpoint_config(source, model) if is_checkpoint(source) else source
    try:
        found = DiffusionPipeline.load_config(at)
    except (OSError, ValueError) as error:
        raise UserError(_unreachable(model, at, error)) from error
    assert isinstance(found, dict)
    check_pipeline(found.get("_class_name"), repr(model))
    if is_checkpoint(source) and (family := _FAMILIES[_checkpoint_type(source, model)]) != found["_class_name"]:
        raise UserError(f"model {model!r} is a {family}, but {at} beside it configures a {found['_class_name']}.")
    return found


def _checkpoint_config(source: str, model: str) -> str:
    """Where the configuration of a checkpoint file lies: its own folder, or the hub repository of its family."""
    folder = Path(source).parent
    if (folder / "model_index.json").is_file():
        return str(folder)
    return DIFFUSERS_DEFAULT_PIPELINE_PATHS[_checkpoint_type(source, model)]["pretrained_model_name_or_path"]


def _checkpoint_type(source: str, model: str) -> str:
    """The type that diffusers infers, from the file's header alone."""
    with safe_open(source, framework="np") as file:
        shapes = {name: SimpleNamespace(shape=file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    found = infer_diffusers_model_type(shapes)
    if found not in _FAMILIES:
        raise UserError(f"model {model!r} is a checkpoint of type {found}; supported is {SUPPORTED}.")
    return found


def _unreachable(model: str, at: str, error: Exception) -> str:
    if not is_checkpoint(model):
        return f"model {model!r} could not be loaded: {_brief(error)}."
    return (
        f"model {model!r} is a checkpoint file, whose configuration is that of the hub's {at}, which cannot be reached "
        f"({_brief(error)}); put that repository's .json and .txt files, in their folders, beside the file."
    )


# What the parts must be


def _check_unet(pipe: Any, model: str) -> None:
    config, channels = pipe.unet.config, pipe.vae.config.latent_channels
    if not config.in_channels == config.out_channels == channels:
        raise UserError(
            f"model {model!r} has a UNet from {config.in_channels} to {config.out_channels} channels over latents of "
            f"{channels}, so it takes more than a text; supported is {SUPPORTED}."
        )
    if config.time_cond_proj_dim is not None:
        raise UserError(f"model {model!r} is distilled to take its guidance as an input; use its undistilled base.")


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


def _scheduler(pipe: Any, model: str) -> DDIMScheduler:
    config = pipe.scheduler.config
    if "beta_schedule" not in config:
        raise UserError(
            f"model {model!r} has a {type(pipe.scheduler).__name__}, whose noise schedule DDIM cannot take over; "
            f"supported is {SUPPORTED}."
        )
    # Stable Diffusion's values for keys that many configs leave out; DDIM's defaults would change the chain.
    unset = {key: False for key in ("clip_sample", "set_alpha_to_one") if key not in config}
    scheduler = DDIMScheduler.from_config(config, **unset)
    assert isinstance(scheduler, DDIMScheduler)
    if scheduler.config.clip_sample or scheduler.config.thresholding:
        raise UserError(f"model {model!r} clips or thresholds its samples, which has no exact log-prob; use another.")
    return scheduler


def _brief(error: Exception) -> str:
    """The first two lines; the Hugging Face libraries say what is missing in one and why in the other."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".") or type(error).__name__
