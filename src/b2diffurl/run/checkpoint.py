"""Checkpoint files: the state from which a resumed run continues exactly. safetensors and JSON, no pickle.

All randomness is keyed by (seed, round), so no generator state is saved.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

_ADAPTER, _OPTIMIZER, _STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """State of a run after a round.

    Attributes:
        round_number: number of completed rounds.
        reward_queries: images scored so far.
        adapter: LoRA weights by name.
        optimizer: AdamW moments and step by parameter name, as "NAME/exp_avg" and so on.
        state: reward history and collapse detection as JSON values.
    """

    round_number: int
    reward_queries: int
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, num_kept: int) -> None:
    """Write a checkpoint under `folder` atomically, and remove all but the newest `num_kept`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = _directory(folder, checkpoint.round_number)
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({name: value.contiguous() for name, value in checkpoint.adapter.items()}, partial / _ADAPTER)
    save_file({name: value.contiguous() for name, value in checkpoint.optimizer.items()}, partial / _OPTIMIZER)
    state = {"round": checkpoint.round_number, "reward_queries": checkpoint.reward_queries, "state": checkpoint.state}
    (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in _complete(folder)[:-num_kept]:
        shutil.rmtree(old)


def remove_checkpoints(folder: Path, *, first_round: int) -> None:
    """Remove the checkpoints of `first_round` and of later rounds."""
    for path in _complete(folder):
        if path.name >= _directory(folder, first_round).name:
            shutil.rmtree(path)


def load_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Load the newest checkpoint, or return None if there is none."""
    checkpoints = _complete(folder)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    state = json.loads((newest / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(
        round_number=state["round"],
        reward_queries=state["reward_queries"],
        adapter=load_file(newest / _ADAPTER),
        optimizer=load_file(newest / _OPTIMIZER),
        state=state["state"],
    )


def _directory(folder: Path, round_number: int) -> Path:
    return folder / f"round_{round_number:05d}"


def _complete(folder: Path) -> list[Path]:
    """Return the checkpoints by round, without those whose writing was interrupted."""
    return sorted(path for path in folder.glob("round_*") if path.suffix != ".partial") if folder.is_dir() else []
