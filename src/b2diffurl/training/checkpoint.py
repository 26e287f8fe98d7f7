"""Checkpoints: what a run needs to go on as if it had never stopped. safetensors and JSON, no pickle.

All randomness is keyed by (seed, round), so there is no generator to save.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

_ADAPTER, _OPTIMIZER, _STATE = "adapter.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A run's state after a round.

    Attributes:
        round_index: rounds done.
        reward_queries: pictures scored so far.
        adapter: weights by name.
        optimizer: AdamW's moments and step by parameter name, as "NAME/exp_avg" and so on.
        state: reward history and collapse watch, JSON values.
    """

    round_index: int
    reward_queries: int
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, num_kept: int) -> None:
    """Write a checkpoint under `folder`, whole or not at all, and remove all but the newest `num_kept`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = _directory(folder, checkpoint.round_index)
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({name: value.contiguous() for name, value in checkpoint.adapter.items()}, partial / _ADAPTER)
    save_file({name: value.contiguous() for name, value in checkpoint.optimizer.items()}, partial / _OPTIMIZER)
    numbers = {
        "round": checkpoint.round_index, "reward_queries": checkpoint.reward_queries, "state": checkpoint.state,
    }  # fmt: skip
    (partial / _STATE).write_text(json.dumps(numbers), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in _all(folder)[:-num_kept]:
        shutil.rmtree(old)


def forget_checkpoints(folder: Path, *, first_round: int) -> None:
    """Remove the checkpoints of `first_round` and later ones, so that the newest that stands is a good one."""
    for path in _all(folder):
        if path.name >= _directory(folder, first_round).name:
            shutil.rmtree(path)


def load_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint, or None where there is none."""
    known = _all(folder)
    if not known:
        return None
    numbers = json.loads((known[-1] / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(
        round_index=numbers["round"],
        reward_queries=numbers["reward_queries"],
        adapter=load_file(known[-1] / _ADAPTER),
        optimizer=load_file(known[-1] / _OPTIMIZER),
        state=numbers["state"],
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """AdamW's state by parameter name; empty before the first step."""
    return {
        f"{name}/{key}": value.detach().clone()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave."""
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.clone() if key == "step" else value.clone().to(parameter.device)


def _directory(folder: Path, round_index: int) -> Path:
    return folder / f"round_{round_index:05d}"


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("round_*") if path.suffix != ".partial") if folder.is_dir() else []
