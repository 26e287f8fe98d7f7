"""Where a model comes from: the embedded one, a diffusers directory, a checkpoint file, or a hub id.

Nothing is loaded here: names, indexes and file headers are looked at, so that a mistake is told in no time.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from b2diffurl import emoji
from b2diffurl.errors import UserError

EMOJI = "emoji"
SUPPORTED = "Stable Diffusion 1.x, 2.x and XL, text to image (StableDiffusionPipeline, StableDiffusionXLPipeline)"
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"  # of the UNet in a checkpoint file
_LATENT_CHANNELS = 4  # of Stable Diffusion; an inpainting UNet has 9


def resolve_model(name: str) -> str:
    """Turn a model's name into what diffusers loads, and refuse what cannot be a Stable Diffusion model.

    Args:
        name: "emoji", a local directory in diffusers format, one .safetensors checkpoint file, or a hub id such as
            "CompVis/stable-diffusion-v1-4".

    Raises:
        UserError: no such directory or file, no pipeline in it, no UNet in it, or a pipeline that is not supported.
    """
    if name == EMOJI:
        return str(emoji.model_dir())
    path = Path(name)
    if path.is_dir():
        _check_directory(path)
    elif is_checkpoint(name):
        _check_checkpoint(path)
    elif not is_hub_id(name):
        raise UserError(
            f"model is {name!r}, which is no directory; give 'emoji', a diffusers directory, "
            "a .safetensors checkpoint, or a hub id."
        )
    return name


def is_checkpoint(source: str) -> bool:
    """Whether a model is one checkpoint file."""
    return source.endswith(".safetensors")


def is_hub_id(name: str) -> bool:
    """Whether a model's name is one of the hub: user/name, and nothing of that name lies here."""
    shaped = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not is_checkpoint(name)
    return shaped and not Path(name).exists()


def public_name(name: str) -> str:
    """A model's name without the folders of this machine."""
    return name if name == EMOJI or is_hub_id(name) else Path(name).name


def check_pipeline(class_name: str | None, model: str) -> None:
    """Refuse a pipeline that is not supported.

    Args:
        class_name: as model_index.json has it.
        model: its name, to tell.

    Raises:
        UserError: it is not supported.
    """
    if class_name not in _PIPELINES:
        raise UserError(f"model {model} holds a {class_name}; supported is {SUPPORTED}.")


def check_lora(directory: Path) -> None:
    """Refuse an adapter directory that is not there.

    Raises:
        UserError: it is not.
    """
    if not directory.is_dir():
        raise UserError(f"lora is {str(directory)!r}, which is no directory; give the lora folder of a run.")


def _check_directory(path: Path) -> None:
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise UserError(f"model directory {path} has no model_index.json; give a directory that diffusers has saved.")
    check_pipeline(json.loads(index_file.read_text(encoding="utf-8")).get("_class_name"), f"directory {path}")
    if not (path / "unet" / "config.json").is_file():
        raise UserError(f"model directory {path} has no unet; give a complete directory that diffusers has saved.")


def _check_checkpoint(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"model is {str(path)!r}, a file that is not there; give the path of a checkpoint.")
    try:
        with safe_open(path, framework="np") as file:
            names = set(file.keys())
            channels = file.get_slice(_FIRST_LAYER).get_shape()[1] if _FIRST_LAYER in names else None
    except SafetensorError as error:
        raise UserError(f"model {path} is no safetensors file: {error}.") from error
    if any("lora" in name for name in names):
        raise UserError(f"model {path} is an adapter; give the base model here and the adapter's folder as lora.")
    if channels != _LATENT_CHANNELS:
        what = "holds no Stable Diffusion UNet" if channels is None else f"holds a UNet of {channels} channels"
        raise UserError(f"model {path} {what}; supported is a complete checkpoint of {SUPPORTED}.")
