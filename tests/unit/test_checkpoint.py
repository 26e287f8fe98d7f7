"""Checkpoints: bit-equal, whole or not at all, and no more than wanted."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from b2diffurl.training.checkpoint import (
    Checkpoint,
    load_newest_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)


def checkpoint(round_index: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(round_index)
    return Checkpoint(
        round_index=round_index,
        reward_queries=256 * round_index,
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


def assert_same_bits(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert value.dtype == expected[name].dtype
        assert value.shape == expected[name].shape
        assert value.contiguous().numpy().tobytes() == expected[name].contiguous().numpy().tobytes()


def rounds_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    saved = checkpoint(3)
    save_checkpoint(tmp_path / "checkpoints", saved, num_kept=2)
    loaded = load_newest_checkpoint(tmp_path / "checkpoints")
    assert loaded is not None
    assert (loaded.round_index, loaded.reward_queries, loaded.state) == (3, 768, saved.state)
    assert_same_bits(loaded.adapter, saved.adapter)
    assert_same_bits(loaded.optimizer, saved.optimizer)


def test_before_the_first_optimizer_step_there_is_no_optimizer_state(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    assert optimizer_tensors(optimizer, {"weight": parameter}) == {}
    empty = Checkpoint(round_index=1, reward_queries=4, adapter={"weight": parameter.detach()}, optimizer={}, state={})
    save_checkpoint(tmp_path, empty, num_kept=1)
    loaded = load_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.optimizer == {}


def test_where_nothing_is_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path) is None
    assert load_newest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("num_kept", [1, 2, 5])
def test_the_newest_are_kept(num_kept: int, tmp_path: Path) -> None:
    for round_index in (8, 9, 10, 11):
        save_checkpoint(tmp_path, checkpoint(round_index), num_kept=num_kept)
    expected = ["round_00008", "round_00009", "round_00010", "round_00011"][-num_kept:]
    assert rounds_in(tmp_path) == expected
    newest = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.round_index == 11


@pytest.mark.parametrize("left_over", ["adapter.safetensors", "state.json"])
def test_a_checkpoint_that_was_cut_off_is_ignored_and_written_anew(left_over: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), num_kept=2)
    save_checkpoint(tmp_path / "other", checkpoint(2), num_kept=2)
    partial = tmp_path / "round_00002.partial"
    partial.mkdir()
    shutil.copy(tmp_path / "other" / "round_00002" / left_over, partial)
    shutil.rmtree(tmp_path / "other")
    loaded = load_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.round_index == 1
    save_checkpoint(tmp_path, checkpoint(2), num_kept=2)
    assert rounds_in(tmp_path) == ["round_00001", "round_00002"]
    assert rounds_in(tmp_path / "round_00002") == ["adapter.safetensors", "optimizer.safetensors", "state.json"]


def test_a_round_that_is_done_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(2), num_kept=2)
    again = Checkpoint(round_index=2, reward_queries=1, adapter={"w": torch.ones(1)}, optimizer={}, state={})
    save_checkpoint(tmp_path, again, num_kept=2)
    loaded = load_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert (loaded.reward_queries, list(loaded.adapter)) == (1, ["w"])


def test_an_optimizer_goes_on_as_if_it_had_never_stopped() -> None:
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
    assert kept["a/step"].item() == 3  # a copy, untouched by the steps since
