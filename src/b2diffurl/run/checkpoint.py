"""Checkpoint files: the state from which a resumed run continues exactly. safetensors and JSON, no pickle.

All randomness is keyed by (seed, round), so no generator state is saved. `manifest.json` has the number of the format
and the sha256 of each file, so that a damaged checkpoint is recognized and the one before it is used.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.run import files

FORMAT = 2
_ADAPTER, _OPTIMIZER, _STATE, _MANIFEST = "adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
_EARLIER = "earlier_rounds.safetensors"  # only in runs that replay trajectories of earlier rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """State of a run after a round.

    Attributes:
        round_number: number of completed rounds.
        reward_queries: images scored so far.
        adapter: LoRA weights by name.
        optimizer: AdamW moments and step by parameter name, as "NAME/exp_avg" and so on.
        state: reward history and collapse detection as JSON values.
        earlier: trajectories of earlier rounds that are trained on again, by name; empty if there are none.
        settings: settings of the run as TOML, or "" if they are not recorded.
        prompts_sha256: hash of the prompts of the run, or "" if it is not recorded.
        rewards_sha256: hash of the source file of each custom reward, by name.
        init_sha256: hash of the adapter that training started from, or "" for a new one.
    """

    round_number: int
    reward_queries: int
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    earlier: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    settings: str = ""
    prompts_sha256: str = ""
    rewards_sha256: dict[str, str] = field(default_factory=dict[str, str])
    init_sha256: str = ""


class _DamagedError(Exception):
    """A checkpoint that cannot be used; the message is the reason."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, num_kept: int) -> None:
    """Write a checkpoint under `folder` atomically, and remove all but the newest `num_kept`.

    Those of later rounds, which a resumed run repeats, are removed too.

    Raises:
        UserError: the system refuses a write; the checkpoints are as they were.
    """
    state = {
        "round": checkpoint.round_number,
        "reward_queries": checkpoint.reward_queries,
        "state": checkpoint.state,
        "settings": checkpoint.settings,
        "prompts_sha256": checkpoint.prompts_sha256,
        "rewards_sha256": checkpoint.rewards_sha256,
        "init_sha256": checkpoint.init_sha256,
    }
    contents = {
        _ADAPTER: save({name: value.contiguous() for name, value in checkpoint.adapter.items()}),
        _OPTIMIZER: save({name: value.contiguous() for name, value in checkpoint.optimizer.items()}),
        _STATE: json.dumps(state).encode(),
    }
    if checkpoint.earlier:
        contents[_EARLIER] = save({name: value.contiguous() for name, value in checkpoint.earlier.items()})
    target = _directory(folder, checkpoint.round_number)
    with files.replaced_directory(target) as partial:
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        (partial / _MANIFEST).write_text(_manifest(contents), encoding="utf-8")
    with files.explained(folder):
        kept = [path for path in _list(folder) if path.name <= target.name][-num_kept:]
        for path in _list(folder):
            if path not in kept:
                shutil.rmtree(path)


def remove_old_checkpoints(folder: Path, *, last_round: int, num_kept: int) -> None:
    """Remove all but the newest `num_kept` of the checkpoints up to `last_round`, also what a killed removal left."""
    with files.explained(folder):
        for path in [path for path in _list(folder) if path.name <= _directory(folder, last_round).name][:-num_kept]:
            shutil.rmtree(path)


def remove_checkpoints(folder: Path, *, first_round: int) -> None:
    """Remove the checkpoints of `first_round` and of later rounds."""
    with files.explained(folder):
        for path in _list(folder):
            if path.name >= _directory(folder, first_round).name:
                shutil.rmtree(path)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint; its content is not checked."""
    return bool(_list(folder))


def load_newest_checkpoint(folder: Path, *, on_message: Callable[[str], None]) -> Checkpoint | None:
    """Load the newest checkpoint that is whole, or return None if there is none at all.

    Args:
        folder: the folder of the checkpoints; files with other names in it are ignored.
        on_message: receives a sentence per damaged checkpoint.

    Raises:
        UserError: every checkpoint is damaged, or the newest whole one has another format.
    """
    newest_first = _list(folder)[::-1]
    for path in newest_first:
        try:
            return _load(path)
        except _DamagedError as error:
            on_message(f"checkpoint {path} is damaged ({error}); the one before it is used.")
    if newest_first:
        raise UserError(
            f"{folder} has no checkpoint that is whole; restore one from a copy, or start a new run in another folder."
        )
    return None


def _load(path: Path) -> Checkpoint:
    checksums = _read_manifest(path)
    names = (_ADAPTER, _OPTIMIZER, _STATE, *((_EARLIER,) if _EARLIER in checksums else ()))
    contents = {name: _read(path / name) for name in names}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != checksums.get(name):
            raise _DamagedError(f"{name} does not have its checksum")
    state = json.loads(contents[_STATE])
    return Checkpoint(
        round_number=state["round"],
        reward_queries=state["reward_queries"],
        adapter=load(contents[_ADAPTER]),
        optimizer=load(contents[_OPTIMIZER]),
        state=state["state"],
        earlier=load(contents[_EARLIER]) if _EARLIER in contents else {},
        settings=state["settings"],
        prompts_sha256=state["prompts_sha256"],
        rewards_sha256=state["rewards_sha256"],
        init_sha256=state.get("init_sha256", ""),
    )


def _manifest(contents: dict[str, bytes]) -> str:
    """Return the text of manifest.json; its last entry is the checksum of the others."""
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return json.dumps({"format": FORMAT, "sha256": checksums, "own_sha256": _own_checksum(FORMAT, checksums)})


def _own_checksum(number: object, checksums: object) -> str:
    return hashlib.sha256(json.dumps([number, checksums]).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, str]:
    """Return the checksum of each file of a checkpoint."""
    try:
        manifest = json.loads(_read(path / _MANIFEST))
        number, checksums, own = manifest["format"], manifest["sha256"], manifest["own_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{_MANIFEST} is not a manifest") from error
    if own != _own_checksum(number, checksums):
        raise _DamagedError(f"{_MANIFEST} does not have its checksum")
    if number != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {number}, and this version of b2diffurl reads format {FORMAT}; resume with "
            "the version that wrote it."
        )
    return checksums


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _DamagedError(f"{file.name} cannot be read: {error.strerror}") from error


def _directory(folder: Path, round_number: int) -> Path:
    return folder / f"round_{round_number:05d}"


def _list(folder: Path) -> list[Path]:
    """Return the checkpoints by round, without other files and without those whose writing was interrupted.

    `round_N.old` is the previous checkpoint of round N, if a kill came while it was replaced.
    """
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if re.fullmatch(r"round_\d{5}(\.old)?", path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: (path.stem, path.suffix == ""))
