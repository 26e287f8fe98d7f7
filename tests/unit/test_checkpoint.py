"""Checkpoints: exact, written atomically, and limited in number."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from b2diffurl.run.checkpoint import Checkpoint
from b2diffurl.run.directory import RunDirectory
from b2diffurl.training.checkpoint import load_optimizer_tensors, optimizer_tensors


def checkpoint(round_number: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(round_number)
    return Checkpoint(
        round_number=round_number,
        reward_queries=256 * round_number,
        adapter={"down.weight": torch.randn(3, 4, generator=generator), "up.weight": torch.tensor([0.1, -0.0, 1e-42])},
        optimizer={
            "down.weight/exp_avg": torch.randn(4, 3, generator=generator).T,
            "down.weight/step": torch.tensor(7.0),
        },
        state={
            "history": [{"a cat \U0001f431": [0.1, 1 / 3]}, {}],
            "watch": {"best_reward": -float("inf"), "first_contrast": None},
        },
    )


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert value.dtype == expected[name].dtype
        assert value.shape == expected[name].shape
        assert value.contiguous().numpy().tobytes() == expected[name].contiguous().numpy().tobytes()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    saved = checkpoint(3)
    RunDirectory(tmp_path).save_checkpoint(saved, num_kept=2)
    loaded = RunDirectory(tmp_path).load_checkpoint()
    assert loaded is not None
    assert (loaded.round_number, loaded.reward_queries, loaded.state) == (3, 768, saved.state)
    assert_same_bits(loaded.adapter, saved.adapter)
    assert_same_bits(loaded.optimizer, saved.optimizer)


def test_optimizer_state_is_empty_before_the_first_step(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    assert optimizer_tensors(optimizer, {"weight": parameter}) == {}
    empty = Checkpoint(round_number=1, reward_queries=4, adapter={"weight": parameter.detach()}, optimizer={}, state={})
    RunDirectory(tmp_path).save_checkpoint(empty, num_kept=1)
    loaded = RunDirectory(tmp_path).load_checkpoint()
    assert loaded is not None
    assert loaded.optimizer == {}


def test_a_new_directory_has_no_checkpoint(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).load_checkpoint() is None
    assert RunDirectory(tmp_path / "none").load_checkpoint() is None
    RunDirectory(tmp_path).checkpoints.mkdir()
    assert RunDirectory(tmp_path).load_checkpoint() is None


@pytest.mark.parametrize("num_kept", [1, 2, 5])
def test_the_newest_are_kept(num_kept: int, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for round_number in (8, 9, 10, 11):
        directory.save_checkpoint(checkpoint(round_number), num_kept=num_kept)
    expected = ["round_00008", "round_00009", "round_00010", "round_00011"][-num_kept:]
    assert names_in(directory.checkpoints) == expected
    newest = directory.load_checkpoint()
    assert newest is not None
    assert newest.round_number == 11


@pytest.mark.parametrize("written", ["adapter.safetensors", "state.json"])
def test_an_interrupted_checkpoint_is_ignored_and_rewritten(written: str, tmp_path: Path) -> None:
    directory, other = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "other")
    directory.save_checkpoint(checkpoint(1), num_kept=2)
    other.save_checkpoint(checkpoint(2), num_kept=2)
    partial = directory.checkpoints / "round_00002.partial"
    partial.mkdir()
    shutil.copy(other.checkpoints / "round_00002" / written, partial)
    loaded = directory.load_checkpoint()
    assert loaded is not None
    assert loaded.round_number == 1
    directory.save_checkpoint(checkpoint(2), num_kept=2)
    assert names_in(directory.checkpoints) == ["round_00001", "round_00002"]
    assert names_in(directory.checkpoints / "round_00002") == [
        "adapter.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "state.json",
    ]


def test_a_repeated_round_replaces_its_checkpoint(tmp_path: Path) -> None:
    RunDirectory(tmp_path).save_checkpoint(checkpoint(2), num_kept=2)
    again = Checkpoint(round_number=2, reward_queries=1, adapter={"w": torch.ones(1)}, optimizer={}, state={})
    RunDirectory(tmp_path).save_checkpoint(again, num_kept=2)
    loaded = RunDirectory(tmp_path).load_checkpoint()
    assert loaded is not None
    assert (loaded.reward_queries, list(loaded.adapter)) == (1, ["w"])


def test_the_checkpoints_of_bad_rounds_are_removed(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for round_number in (9, 10, 11):
        directory.save_checkpoint(checkpoint(round_number), num_kept=3)
    directory.remove_checkpoints(first_round=10)
    assert names_in(directory.checkpoints) == ["round_00009"]


def test_a_restored_optimizer_continues_exactly() -> None:
    def start(values: Tensor) -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
        parameters = {"a": torch.nn.Parameter(values[0].clone()), "b": torch.nn.Parameter(values[1].clone())}
        return parameters, torch.optim.AdamW(parameters.values(), lr=0.1)

    def step(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.AdamW, number: int) -> None:
        for parameter in parameters.values():
            parameter.grad = torch.sin(parameter.detach() + number)
        optimizer.step()

    whole, whole_optimizer = start(torch.arange(6.0).view(2, 3))
    for number in range(3):
        step(whole, whole_optimizer, number)
    kept = optimizer_tensors(whole_optimizer, whole)
    resumed, resumed_optimizer = start(torch.stack([p.detach() for p in whole.values()]))
    load_optimizer_tensors(resumed_optimizer, resumed, kept)
    for number in range(3, 6):
        step(whole, whole_optimizer, number)
        step(resumed, resumed_optimizer, number)
    assert_same_bits({n: p.detach() for n, p in resumed.items()}, {n: p.detach() for n, p in whole.items()})
    assert sorted(kept) == [f"{name}/{key}" for name in "ab" for key in ("exp_avg", "exp_avg_sq", "step")]
    assert kept["a/step"].item() == 3  # a copy that later steps do not change
