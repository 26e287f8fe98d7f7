"""What the caller has set in torch does not change a run, and runs in threads do not disturb each other."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Full
from b2diffurl.errors import UserError
from b2diffurl.run.settings import Logging, Run
from b2diffurl.training.trainer import as_path, train

MakeRun = Callable[..., Run]


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


@contextmanager
def default_dtype() -> Generator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Generator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.fixture
def run(small_run: MakeRun, prompts_file: Path) -> Run:
    made = small_run(
        num_rounds=1, prompts=str(prompts_file), schedule=Full(), reward_queries_per_round=4,
        rollout=Rollout(num_branches=2), logging=Logging(num_samples=1, grid_side=0),
    )  # fmt: skip
    return replace(made, sampler=replace(made.sampler, num_inference_steps=2))


def adapter(run: Run, output: Path) -> dict[str, Tensor]:
    train(run, output=output, reward=brightness)
    return load_file(next((output / "checkpoints").iterdir()) / "adapter.safetensors")


@pytest.mark.slow
def test_modes_of_the_caller_change_nothing(run: Run, tmp_path: Path) -> None:
    plain = adapter(run, tmp_path / "plain")
    assert any(bool(value.any()) for name, value in plain.items() if "lora_B" in name)
    modes: list[Callable[[], AbstractContextManager[Any]]] = [
        torch.no_grad, torch.inference_mode, default_dtype, default_device,
    ]  # fmt: skip
    for number, mode in enumerate(modes):
        with mode():
            other = adapter(run, tmp_path / str(number))
        assert all(torch.equal(plain[name], other[name]) for name in plain), mode


def test_two_threads_can_train_at_once(run: Run, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda name: adapter(run, tmp_path / name), ("a", "b")))
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])


def test_an_output_that_is_no_path_is_refused() -> None:
    with pytest.raises(UserError, match=r"^output is None, which is not a path; give the run folder\.$"):
        as_path(None)
