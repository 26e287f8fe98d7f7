"""The files of an adapter in its three forms, read without a model: where they are, their rank and alpha, their hash.

A `lora` folder has the adapter for diffusers, for tools with kohya's names (ComfyUI, A1111, Forge), and in `peft/`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from b2diffurl.errors import UserError
from b2diffurl.models.lora import LoRA

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers' loader prefers
KOHYA_FILE = "b2diffurl_kohya.safetensors"
PEFT_FOLDER = "peft"  # inside the lora folder; diffusers' loader ignores subfolders
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_FILES = (DIFFUSERS_FILE, KOHYA_FILE, PEFT_FILE)
INTERVAL_KEY = "b2diffurl_adapter_interval"  # in the metadata of each file, if the adapter has an interval
_FORMS: tuple[tuple[str, Literal["diffusers", "kohya", "peft"]], ...] = (
    (DIFFUSERS_FILE, "diffusers"), (KOHYA_FILE, "kohya"), (PEFT_FILE, "peft"),
)  # fmt: skip
_DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight")  # one per layer


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """An adapter that has been found and whose header has been read, but not its weights.

    Attributes:
        file: the weights.
        form: the tool whose names the weights have.
        rank: rank of the update matrices.
        alpha: numerator of the scale alpha / rank.
        sha256: hash of the file.
        has_interval: whether it was trained to be on in the last steps only.
    """

    file: Path
    form: Literal["diffusers", "kohya", "peft"]
    rank: int
    alpha: float
    sha256: str
    has_interval: bool = False

    @classmethod
    def of(cls, directory: Path, *, setting: str = "lora.init") -> "AdapterFile":
        """Find the adapter of a folder.

        Args:
            directory: a `lora` folder, its `peft` folder, a folder with one of the three files, or a run folder.
            setting: name of the setting for error messages.

        Raises:
            UserError: there is no adapter, it is damaged, or its layers differ in rank or alpha.
        """
        folders = (directory, directory / "lora")
        candidates: list[tuple[Path, Literal["diffusers", "kohya", "peft"]]] = [
            (folder / name, form) for folder in folders for name, form in _FORMS if (folder / name).is_file()
        ]
        if not candidates:
            raise UserError(f"{setting} is {str(directory)!r}, which holds no adapter; give a run or its lora folder.")
        file, form = candidates[0]
        try:
            ranks, alphas, metadata = _read_header(file)
            sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{setting} {file} cannot be read: {error}; use another adapter.") from error
        if len(ranks) != 1 or len(alphas) > 1:
            what = "holds no weights of an adapter" if not ranks else "has layers of different rank or alpha"
            raise UserError(f"{setting} {file} {what}; use an adapter that this library wrote.")
        (rank,) = ranks
        alpha = next(iter(alphas), float(rank))
        has_interval = INTERVAL_KEY in metadata
        return cls(file=file, form=form, rank=rank, alpha=alpha, sha256=sha256, has_interval=has_interval)

    def check(self, lora: LoRA) -> None:
        """Refuse an adapter from which a run with these settings cannot start.

        Raises:
            UserError: rank or alpha differ, or the adapter is on in an interval only and that of the run in all steps.
        """
        if (self.rank, self.alpha) != (lora.rank, lora.alpha):
            raise UserError(
                f"lora.init {lora.init!r} has rank {self.rank} and alpha {self.alpha:g} but lora.rank is {lora.rank} "
                f"and lora.alpha is {lora.alpha:g}; give --lora.rank {self.rank} --lora.alpha {self.alpha:g}."
            )
        if self.has_interval and not lora.interval:
            raise UserError(
                f"lora.init {lora.init!r} was trained to be on in an interval only but lora.interval is false; "
                "give --lora.interval."
            )


def _read_header(file: Path) -> tuple[set[int], set[float], dict[str, str]]:
    """Return the different ranks of the layers, the alphas that are stored (none: alpha is the rank), the metadata."""
    with safe_open(file, framework="np") as opened:
        names: list[str] = list(opened.keys())
        ranks = {opened.get_slice(name).get_shape()[0] for name in names if name.endswith(_DOWN)}
        alphas = {float(np.asarray(opened.get_tensor(name))) for name in names if name.endswith(".alpha")}
        metadata: dict[str, str] = opened.metadata() or {}
    return ranks, alphas | set(_alphas_beside(file, metadata)), metadata


def _alphas_beside(file: Path, metadata: dict[str, str]) -> Iterator[float]:
    """Give the alpha of diffusers' metadata, and of PEFT's configuration beside the file."""
    config = file.with_name(PEFT_CONFIG)
    tables: list[dict[str, Any]] = [json.loads(metadata.get("lora_adapter_metadata", "{}"))]
    if file.name == PEFT_FILE and config.is_file():
        tables.append(json.loads(config.read_text(encoding="utf-8")))
    for table in tables:
        for name in ("unet.lora_alpha", "lora_alpha"):
            if name in table:
                yield float(table[name])
