"""Where a model comes from: the embedded one, a local diffusers directory, or a hub id. Nothing is loaded here."""

import json
from pathlib import Path

from b2diffurl import emoji
from b2diffurl.errors import UserError

EMOJI = "emoji"
_PIPELINES = ("StableDiffusionPipeline",)


def resolve_model(name: str) -> str:
    """Turn a model's name into what `from_pretrained` takes, and refuse what cannot be a Stable Diffusion model.

    Args:
        name: "emoji", a local directory in diffusers format, or a hub id such as "CompVis/stable-diffusion-v1-4".

    Raises:
        UserError: no such directory, no pipeline in it, no UNet in it, or a pipeline that is not supported.
    """
    if name == EMOJI:
        return str(emoji.model_dir())
    path = Path(name)
    if path.is_dir():
        _check_directory(path)
    elif path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"model is {name!r}, which is no directory; give 'emoji', a diffusers directory, or a hub id.")
    return name


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
    if not (path / "unet" / "config.json").is_file():
        raise UserError(f"model directory {path} has no unet; only Stable Diffusion models with a UNet are supported.")
    pipeline = json.loads(index_file.read_text(encoding="utf-8")).get("_class_name")
    if pipeline not in _PIPELINES:
        raise UserError(
            f"model directory {path} holds a {pipeline}; "
            f"supported is {', '.join(_PIPELINES)} (Stable Diffusion 1.x, 2.x)."
        )
