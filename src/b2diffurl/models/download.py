"""What the Hugging Face Hub reports of a model before it is downloaded: whether it exists, and its size."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import cast

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

_WEIGHTS = (".safetensors", ".bin")  # in the order that the libraries prefer
_CONFIGURATION = (".json", ".txt", ".model")
_VARIANTS = ("fp16", "bf16", "non_ema", "ema_only", "openvino", "flax", "onnx")
_PARTS = ("", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_SECONDS = 10.0
# The base error of the HTTP library behind huggingface_hub, which differs between its versions.
_NO_CONNECTION = cast("type[Exception]", HfHubHTTPError.__bases__[0])


def hub_problem(repo_id: str, *, endpoint: str | None = None) -> str:
    """Return why a model that is not in the local cache cannot be downloaded, or ""; sends at most one request.

    The libraries repeat a request for half a minute and then report a missing file.

    Args:
        repo_id: hub id of a diffusers pipeline.
        endpoint: address of the hub; by default that of huggingface_hub.
    """
    if isinstance(try_to_load_from_cache(repo_id, "model_index.json"), str):
        return ""
    try:
        HfApi(endpoint=endpoint).model_info(repo_id, timeout=_SECONDS)
    except (HFValidationError, RepositoryNotFoundError):
        return (
            "the Hugging Face Hub has no such model, or it is private; check its name, or log in with `hf auth login`"
        )
    except (OSError, _NO_CONNECTION) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return (
            f"it is not in the local cache and the Hugging Face Hub cannot be reached ({reason[0].rstrip('.')}); check "
            "the connection, or give a local directory"
        )
    return ""


def download_bytes(repo_id: str, *, endpoint: str | None = None) -> int | None:
    """Return the bytes of a model's files that are not in the local cache yet, as the hub gives their sizes.

    Args:
        repo_id: hub id of a diffusers pipeline or of a transformers model.
        endpoint: address of the hub; by default that of huggingface_hub.

    Returns:
        The bytes, or None where the hub cannot be reached or does not have the model.
    """
    try:
        info = HfApi(endpoint=endpoint).model_info(repo_id, files_metadata=True, timeout=_SECONDS)
    except (OSError, HFValidationError, _NO_CONNECTION):
        return None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return sum(
        sizes[name] for name in needed_files(sizes) if not isinstance(try_to_load_from_cache(repo_id, name), str)
    )


def needed_files(sizes: Mapping[str, int]) -> list[str]:
    """Return the files that loading a model reads: configuration, and each part's weights in one format.

    >>> needed_files({"model_index.json": 1, "unet/a.bin": 9, "unet/a.safetensors": 9, "unet/a.fp16.safetensors": 5,
    ...               "sd.safetensors": 20, "safety_checker/model.safetensors": 3})
    ['model_index.json', 'unet/a.safetensors']
    >>> needed_files({"config.json": 1, "pytorch_model.bin": 9, "README.md": 1})
    ['config.json', 'pytorch_model.bin']
    """
    is_pipeline = "model_index.json" in sizes
    parts = [part for part in _PARTS if is_pipeline or not part]
    names: list[str] = []
    for part in parts:
        within = [name for name in sizes if str(PurePosixPath(name).parent) == (part or ".") and not _is_variant(name)]
        names += [name for name in within if name.endswith(_CONFIGURATION)]
        if part or not is_pipeline:
            names += _first_format(within)
    return names


def _first_format(names: Iterable[str]) -> list[str]:
    """Return the weights in the first format that exists."""
    names = list(names)
    for suffix in _WEIGHTS:
        weights = [name for name in names if name.endswith(suffix)]
        if weights:
            return weights
    return []


def _is_variant(name: str) -> bool:
    return any(variant in PurePosixPath(name).name for variant in _VARIANTS)
