"""How many processes `--num-processes` starts, and what it refuses before any of them."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from b2diffurl.cli import main, processes, train
from b2diffurl.cli.processes import NumProcesses, count_processes

QUICK = "emoji-quickstart"
GIB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of three cores and two GPUs, with memory for many processes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(processes, "_num_cores", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    set_memory(monkeypatch, 100.0)


def set_memory(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(processes.psutil, "virtual_memory", lambda: SimpleNamespace(available=gib * GIB))


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [
        (1, "cpu", 1), (5, "cpu", 5), ("auto", "cpu", 3),
        ("auto", "cuda", 2), ("auto", "auto", 2), (2, "cuda", 2), ("auto", "cuda:1", 1),
    ],
)  # fmt: skip
def test_auto_is_one_per_gpu_or_core(given: NumProcesses, device: str, expected: int) -> None:
    assert count_processes(given, device) == expected


@pytest.mark.parametrize(("gib", "expected"), [(0.1, 1), (3.1, 2), (100.0, 4)])
def test_auto_on_a_cpu_has_the_memory_and_at_most_four(
    gib: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_num_cores", lambda: 64)
    set_memory(monkeypatch, gib)
    assert count_processes("auto", "cpu") == expected


def test_auto_on_an_apple_gpu_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "choose_device", lambda _: "mps")
    assert count_processes("auto", "mps") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["0"], "num_processes is 0"),
        (["3", "--device", "cuda"], "num_processes is 3 but device is 'cuda', which has 2"),
        (["2", "--device", "cuda:1"], "num_processes is 2 but device is 'cuda:1', which has 1"),
    ],
)
def test_a_number_that_cannot_be_is_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", QUICK, "--output", str(tmp_path / "run"), "--num-processes", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["2", "auto"])
def test_under_torchrun_it_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", QUICK, "--output", str(tmp_path / "run"), "--num-processes", given]) == 2
    assert f"num_processes is {given} but torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--dry-run"], ["--reward", "none-such"]])
def test_checks_start_no_process(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "run_processes", lambda *_: pytest.fail("processes were started"))
    words = [QUICK, "--output", str(tmp_path / "run"), "--device", "cpu", "--num-processes", "2", *words]
    assert main(["train", *words]) == (0 if "--dry-run" in words else 2)


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("7", "7")])
def test_the_cores_are_shared_unless_the_user_has_set_the_threads(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    with processes._surroundings(2):
        assert os.environ["OMP_NUM_THREADS"] == expected
    assert os.environ.get("OMP_NUM_THREADS") == given
