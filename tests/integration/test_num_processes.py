"""`train --num-processes 2`, really: the result of one process, one sentence for an error, and no process left over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from b2diffurl.algorithm.update import Optimization
from b2diffurl.cli import main
from b2diffurl.config import to_toml
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.settings import Logging, Run

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300
REWARD = """\
import atexit
import os
from pathlib import Path

from torch import distributed

from b2diffurl.errors import UserError


def redness(images, prompts):
    (Path(__file__).parent / f"rank{os.environ.get('RANK')}").write_text(str(os.getpid()))
    return images[:, 0].mean(dim=(1, 2)) - images[:, 2].mean(dim=(1, 2))


def aborts(images, prompts):
    if os.environ.get("RANK") == "1":
        atexit.register(os.abort)
        raise UserError("the reward has no key; set KEY.")
    return redness(images, prompts)


def without_key(images, prompts):
    file = Path(__file__).parent / f"connected{os.environ['RANK']}"
    atexit.register(lambda: file.write_text(str(distributed.is_initialized())))
    if os.environ.get("RANK") == "1":
        raise UserError("the reward has no key; set KEY.")
    return redness(images, prompts)
"""


@pytest.fixture
def settings(small_run: Callable[..., Run], prompts_file: Path) -> Path:
    """Five trunks for two processes: shares of three and two."""
    file = prompts_file.with_name("settings.toml")
    run = small_run(
        prompts=str(prompts_file), num_rounds=1, reward_queries_per_round=20,
        logging=Logging(num_samples=1, grid_side=0),
        optimization=Optimization(learning_rate=1e-4, num_minibatches=2, num_inner_epochs=1),
    )  # fmt: skip
    file.write_text(to_toml(run), encoding="utf-8")
    file.with_name("reward.py").write_text(REWARD, encoding="utf-8")
    return file


def words(settings: Path, output: str, reward: str, *flags: str) -> list[str]:
    reward = f"{settings.with_name('reward.py')}:{reward}"
    output = str(settings.with_name(output))
    return ["train", str(settings), "--device", "cpu", "--reward", reward, "--output", output, *flags]


def start(settings: Path, reward: str, *flags: str) -> subprocess.Popen[str]:
    """Start a run in two processes, as the first of its process group: a terminal sends Ctrl-C to all of it."""
    command = [sys.executable, "-m", "b2diffurl.cli", *words(settings, "two", reward, "--num-processes", "2", *flags)]
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for_ranks(folder: Path) -> list[psutil.Process]:
    """Wait until both ranks have scored images; return their processes."""
    files = [folder / "rank0", folder / "rank1"]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [psutil.Process(int(file.read_text())) for file in files]


@pytest.mark.slow  # test_processes.py compares ranks started by hand in every run
def test_two_processes_equal_one(settings: Path) -> None:
    assert main(words(settings, "one", "redness")) == 0
    command = start(settings, "redness")
    shown, error = command.communicate(timeout=TIMEOUT_SECONDS)
    assert (command.returncode, error) == (0, "")
    assert shown.count("adapter  ") == 1
    assert (settings.with_name("rank0").is_file(), settings.with_name("rank1").is_file()) == (True, True)
    one, two = (min(settings.with_name(name).glob("lora/*.safetensors")) for name in ("one", "two"))
    assert one.name == two.name
    environments = [RunDirectory(settings.with_name(name)).read().environment for name in ("one", "two")]
    assert [environment["processes"] for environment in environments] == ["1", "2"]
    ours, theirs = load_file(one), load_file(two)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-5


@pytest.mark.slow
def test_an_error_appears_once(settings: Path) -> None:
    command = start(settings, "without_key")
    _, error = command.communicate(timeout=TIMEOUT_SECONDS)
    assert (command.returncode, error) == (2, "b2diffurl: the reward has no key; set KEY.\n")
    # gloo's threads abort about one exiting process of a hundred if they are still there
    assert [settings.with_name(f"connected{rank}").read_text() for rank in (0, 1)] == ["False", "False"]


@pytest.mark.slow
def test_an_error_appears_even_if_its_process_aborts_as_it_exits(settings: Path) -> None:
    command = start(settings, "aborts")
    _, error = command.communicate(timeout=TIMEOUT_SECONDS)
    assert command.returncode == 2
    assert error.endswith("b2diffurl: the reward has no key; set KEY.\n")  # after what faulthandler prints


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["killed", "interrupted"])
def test_no_process_is_left(ended: str, settings: Path) -> None:
    command = start(settings, "redness", "--num-rounds", "50")
    try:
        ranks = wait_for_ranks(settings.parent)
        if ended == "killed":
            ranks[1].kill()
        else:
            os.killpg(command.pid, signal.SIGINT)
        _, error = command.communicate(timeout=TIMEOUT_SECONDS)
        assert not any(rank.is_running() for rank in ranks)
    finally:
        command.kill()
    if ended == "killed":
        assert command.returncode == 1
        assert "process" in error
    else:
        assert command.returncode == 130
        assert error == "b2diffurl: interrupted; continue with --resume.\n"
    assert error.count("\n") == 1
