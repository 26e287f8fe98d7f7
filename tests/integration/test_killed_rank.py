"""One of two processes is killed: the other ends with an error, and the run resumes."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from b2diffurl.algorithm.schedule import Backward
from b2diffurl.config import to_toml
from b2diffurl.run.settings import Logging, Run

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 600


def start(settings: Path, output: Path, *flags: str) -> list[subprocess.Popen[str]]:
    """Start two ranks as torchrun does, but without it: it would stop the other rank itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "b2diffurl.cli", "train", str(settings), "--output", str(output), *flags]
    shared = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    return [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}, text=True, cwd=settings.parent,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]  # fmt: skip


def rounds(output: Path) -> list[int]:
    file = output / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line)["round"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_rank_ends_and_the_run_resumes(
    killed: int, small_run: Callable[..., Run], prompts_file: Path, tmp_path: Path
) -> None:
    run = small_run(
        num_rounds=30, prompts=str(prompts_file), reward_queries_per_round=8, logging=Logging(num_samples=1),
        reward="jpeg-size:compressible",
    )  # fmt: skip
    run = replace(run, schedule=Backward(tau_first=6))  # at its end, so that its number of rounds can change
    settings, output = tmp_path / "settings.toml", tmp_path / "run"
    settings.write_text(to_toml(run), encoding="utf-8")
    ranks = start(settings, output)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while len(rounds(output)) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        ranks[killed].kill()
        _, error = ranks[1 - killed].communicate(timeout=TIMEOUT_SECONDS)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[1 - killed].returncode == 1, error
    assert "another process of this run ended or does not answer" in error
    assert "Traceback" not in error
    done = len(rounds(output))
    assert 2 <= done < 30
    ranks = start(settings, output, "--resume", "--num-rounds", str(done + 2))
    assert [rank.wait(timeout=TIMEOUT_SECONDS) for rank in ranks] == [0, 0]
    assert rounds(output) == list(range(1, done + 3))
    assert (output / "lora").is_dir()
