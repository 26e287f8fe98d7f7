"""Reads a model's index and tokenizers without its weights; `ModelSource` caches both."""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type
from safetensors import safe_open
from transformers import CLIPTokenizer

from b2diffurl.errors import UserError
from b2diffurl.models.download import hub_problem
from b2diffurl.models.model_source import SUPPORTED, ModelSource, check_pipeline

_MADE_UP_TOKENS = 2  # where a tokenizer's files are missing, transformers makes one up, and all prompts are noise
_FAMILIES = {"v1": "StableDiffusionPipeline", "v2": "StableDiffusionPipeline", "xl_base": "StableDiffusionXLPipeline"}


def read_index(source: ModelSource) -> Mapping[str, Any]:
    """Read the model_index.json of a supported model.

    Raises:
        UserError: the index cannot be read, or its pipeline is not supported.
    """
    location = config_location(source)
    problem = "" if Path(location).exists() else hub_problem(location)
    if problem:
        raise UserError(_unreachable(source, location, problem))
    try:
        index = DiffusionPipeline.load_config(location)
    except (OSError, ValueError) as error:
        raise UserError(_unreachable(source, location, first_lines(error))) from error
    assert isinstance(index, dict)
    check_pipeline(index.get("_class_name"), repr(source.name))
    if source.is_checkpoint and (family := _FAMILIES[_checkpoint_type(source)]) != index["_class_name"]:
        raise UserError(
            f"model {source.name!r} is a {family}, but {location} beside it configures a {index['_class_name']}; "
            "put the configuration of its own family there."
        )
    return index


def upcasts_attention(source: ModelSource) -> bool:
    """Whether the config of a model's UNet asks for attention in float32, because it overflows in float16.

    Raises:
        UserError: the config cannot be read.
    """
    with loading(f"the UNet's config of model {source.name!r}"):
        config = UNet2DConditionModel.load_config(config_location(source), subfolder="unet")
    assert isinstance(config, dict)
    return bool(config.get("upcast_attention"))


def read_tokenizers(source: ModelSource) -> tuple[CLIPTokenizer, ...]:
    """Read a model's tokenizers, in the order of `tokenizer_names`.

    Raises:
        UserError: the model has none, or they cannot be read.
    """
    location = config_location(source)
    with loading(f"model {source.name!r}"):
        tokenizers = tuple(
            CLIPTokenizer.from_pretrained(location, subfolder=name) for name in tokenizer_names(source.index)
        )
    if not tokenizers or min(len(tokenizer) for tokenizer in tokenizers) <= _MADE_UP_TOKENS:
        raise UserError(f"model {source.name!r} could not be loaded: it has no tokenizer; save it with the model.")
    return tokenizers


def tokenizer_names(index: Mapping[str, Any]) -> list[str]:
    """Names of the pipeline's components that are tokenizers."""
    return sorted(name for name, component in index.items() if name.startswith("tokenizer") and component[0])


def config_location(source: ModelSource) -> str:
    """Directory or hub repository of a model's configuration.

    For a checkpoint file, the file's own folder if that has a model_index.json, else the repository of its family.

    Raises:
        UserError: the checkpoint's family is not supported.
    """
    if not source.is_checkpoint:
        return source.location
    folder = Path(source.location).parent
    if (folder / "model_index.json").is_file():
        return str(folder)
    return DIFFUSERS_DEFAULT_PIPELINE_PATHS[_checkpoint_type(source)]["pretrained_model_name_or_path"]


@contextmanager
def loading(what: str) -> Generator[None]:
    """Return a context for reading files of a model: whatever the libraries raise there is the fault of the files.

    Args:
        what: subject of the message, such as "model 'x'".

    Raises:
        UserError: the files are missing, damaged, or those of another model.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything in diffusers, transformers, safetensors and torch
        raise UserError(f"{what} could not be loaded: {first_lines(error)}.") from error


def first_lines(error: Exception) -> str:
    """The first two lines of an error: the Hugging Face libraries put the subject in one, the reason in the other."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".") or type(error).__name__


def _checkpoint_type(source: ModelSource) -> str:
    """The type that diffusers infers, from the file's header alone."""
    with safe_open(source.location, framework="np") as file:
        shapes = {name: SimpleNamespace(shape=file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    inferred = infer_diffusers_model_type(shapes)
    if inferred not in _FAMILIES:
        raise UserError(f"model {source.name!r} is a checkpoint of type {inferred}; supported is {SUPPORTED}.")
    return inferred


def _unreachable(source: ModelSource, location: str, reason: str) -> str:
    if not source.is_checkpoint:
        return f"model {source.name!r} could not be loaded: {reason}."
    return (
        f"model {source.name!r} is a checkpoint file whose configuration is that of the hub's {location}, which cannot "
        f"be read ({reason}); put that repository's .json and .txt files, in their folders, beside the "
        "file."
    )
