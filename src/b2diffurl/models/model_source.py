"""Where a model comes from: the package, a diffusers directory, a checkpoint file, or a hub id.

Creating a `ModelSource` loads no weights and asks no hub: it inspects names, indexes and file headers, so that an
invalid model is refused at once. Its index and tokenizers are read when they are first needed, and once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open

from b2diffurl import emoji
from b2diffurl.errors import UserError
from b2diffurl.models.lora import LoRA

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SUPPORTED = "Stable Diffusion 1.x, 2.x and XL, text to image (StableDiffusionPipeline, StableDiffusionXLPipeline)"
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"  # of the UNet in a checkpoint file
_LATENT_CHANNELS = 4  # of Stable Diffusion; an inpainting UNet has 9


@dataclass(frozen=True)
class ModelSource:
    """A model that has been found, but not loaded.

    Args:
        name: "emoji", "emoji-objects", a local directory in diffusers format, one .safetensors checkpoint file, or a
            hub id such as "CompVis/stable-diffusion-v1-4".

    Raises:
        UserError: the directory or file does not exist, has no pipeline or no UNet, or its pipeline is not supported.
    """

    name: str

    def __post_init__(self) -> None:
        path = Path(self.name)
        if emoji.is_embedded(self.name):
            return
        if path.is_dir():
            _check_directory(path)
        elif self.is_checkpoint:
            _check_checkpoint(path)
        elif not self.is_hub:
            raise UserError(
                f"model is {self.name!r}, which is not a directory; give 'emoji', 'emoji-objects', a diffusers "
                "directory, a .safetensors checkpoint, or a hub id."
            )

    @classmethod
    def of(cls, model: "ModelSource | str") -> "ModelSource":
        """Return the source of a model that is given by source or by name.

        Raises:
            UserError: as the class.
        """
        return model if isinstance(model, ModelSource) else cls(model)

    @property
    def location(self) -> str:
        """What diffusers loads: a directory, a file or a hub id."""
        return str(emoji.model_dir(self.name)) if emoji.is_embedded(self.name) else self.name

    @property
    def is_checkpoint(self) -> bool:
        """Whether the model is one checkpoint file."""
        return is_checkpoint(self.name)

    @property
    def is_hub(self) -> bool:
        """Whether the model is on the hub."""
        return is_hub_id(self.name)

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """The content of model_index.json; for a checkpoint file, that of its family.

        Raises:
            UserError: the index cannot be read, or its pipeline is not supported.
        """
        from b2diffurl.models.model_files import read_index  # imports diffusers

        return read_index(self)

    @cached_property
    def tokenizers(self) -> "tuple[CLIPTokenizer, ...]":
        """The model's tokenizers; Stable Diffusion XL has two.

        Raises:
            UserError: the model has none, or they cannot be read.
        """
        from b2diffurl.models.model_files import read_tokenizers  # imports diffusers and transformers

        return read_tokenizers(self)

    def check(
        self, *, num_inference_steps: int, eta: float, interval_length: int = 0, lora: LoRA | None = None
    ) -> None:
        """Check the scheduler and the adapter's layers before the model is loaded, if the model is on this machine.

        Args:
            num_inference_steps: T.
            eta: weight of the noise.
            interval_length: length of the first interval that is trained; 0 for no training.
            lora: the adapter that will be trained; None for none.

        Raises:
            UserError: the scheduler is not supported, has too few timesteps, or adds no noise in the whole interval; or
                a target name of the adapter matches no layer.
        """
        from b2diffurl.models.before_loading import check_model  # imports diffusers

        check_model(self, num_inference_steps=num_inference_steps, eta=eta, interval_length=interval_length, lora=lora)

    @property
    def chain_note(self) -> str:
        """Which chain is used where it is not that of the model's own scheduler; "" where it is.

        Raises:
            UserError: as `index`.
        """
        name = "" if self.is_checkpoint else str((self.index.get("scheduler") or ["", ""])[1])
        if name in ("", "DDIMScheduler"):
            return ""
        return f"The model was saved with {name}; DDIM samples and trains it, with that scheduler's noise schedule."

    @property
    def has_safety_checker(self) -> bool:
        """Whether the stock pipeline would filter unsafe images; ours does not.

        Raises:
            UserError: as `index`.
        """
        return not self.is_checkpoint and bool((self.index.get("safety_checker") or [None])[0])


def is_checkpoint(name: str) -> bool:
    """Whether a model's name is that of one checkpoint file."""
    return name.endswith(".safetensors")


def is_hub_id(name: str) -> bool:
    """Whether a model's name has the form user/name and is not a local path."""
    has_form = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not is_checkpoint(name)
    return has_form and not Path(name).exists()


def public_name(name: str) -> str:
    """A model's name without the folders of this machine."""
    return name if emoji.is_embedded(name) or is_hub_id(name) else Path(name).name


def check_pipeline(class_name: str | None, model: str) -> None:
    """Refuse a pipeline that is not supported.

    Args:
        class_name: the pipeline's class in model_index.json.
        model: description of the model for the error message.

    Raises:
        UserError: the pipeline is not supported.
    """
    if class_name not in _PIPELINES:
        raise UserError(f"model {model} holds a {class_name}; supported is {SUPPORTED}.")


def check_lora(directory: Path) -> None:
    """Refuse an adapter directory that does not exist.

    Raises:
        UserError: the directory does not exist.
    """
    if not directory.is_dir():
        raise UserError(f"lora is {str(directory)!r}, which is not a directory; give the lora folder of a run.")


def _check_directory(path: Path) -> None:
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise UserError(f"model directory {path} has no model_index.json; give a directory that diffusers has saved.")
    check_pipeline(_read_table(index_file).get("_class_name"), f"directory {path}")
    if not (path / "unet" / "config.json").is_file():
        raise UserError(f"model directory {path} has no unet; give a complete directory that diffusers has saved.")
    for config in sorted(path.glob("*/config.json")):
        _read_table(config)


def _read_table(file: Path) -> dict[str, Any]:
    """Read a JSON file of a model directory."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model file {file} is not valid JSON: {error}; save the model anew.") from error
    if not isinstance(table, dict):
        raise UserError(f"model file {file} holds no JSON object; save the model anew.")
    return cast("dict[str, Any]", table)


def _check_checkpoint(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"model is {str(path)!r}, a file that does not exist; give the path of a checkpoint.")
    try:
        with safe_open(path, framework="np") as file:
            names = set(file.keys())
            channels = file.get_slice(_FIRST_LAYER).get_shape()[1] if _FIRST_LAYER in names else None
    except SafetensorError as error:
        raise UserError(
            f"model {path} is not a valid safetensors file: {error}; give a complete checkpoint."
        ) from error
    if any("lora" in name for name in names):
        raise UserError(f"model {path} is an adapter; give the base model here and the adapter's folder as lora.")
    if channels != _LATENT_CHANNELS:
        what = "holds no Stable Diffusion UNet" if channels is None else f"holds a UNet of {channels} channels"
        raise UserError(f"model {path} {what}; supported is a complete checkpoint of {SUPPORTED}.")
