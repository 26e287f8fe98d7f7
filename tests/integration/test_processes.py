"""Two processes on one run, by torchrun as a user would start them: the same result as one process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl.algorithm.objectives import DPO
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.selection import All
from b2diffurl.algorithm.update import Optimization
from b2diffurl.config import to_toml
from b2diffurl.distributed import Ranks
from b2diffurl.run.settings import Logging, Run
from tests.integration import several

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def torchrun(num: int, settings: Path, output: Path, *, failing_rank: int = -1) -> None:
    output.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num)]
    command += [str(HERE / "several.py"), str(settings), str(output), str(failing_rank)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def metrics_of(output: Path) -> list[dict[str, Any]]:
    lines = (output / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def adapter(output: Path, rank: int) -> dict[str, Tensor]:
    return load_file(output / f"adapter{rank}.safetensors")


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.fixture
def run(small_run: Callable[..., Run], prompts_file: Path) -> Run:
    """Five trunks for two processes: shares of three and two."""
    return small_run(
        prompts=str(prompts_file),
        reward_queries_per_round=20,
        optimization=Optimization(learning_rate=1e-4, num_minibatches=2, num_inner_epochs=1),  # the reference's rate
        logging=Logging(num_samples=2, grid_side=0, num_evaluation_images=3, kl_to_reference=True),
    )


@pytest.mark.parametrize("kind", ["b2", pytest.param("dpo", marks=pytest.mark.slow)])
def test_two_processes_equal_one(kind: str, run: Run, tmp_path: Path) -> None:
    """The first kind has a second round, which replays the trajectories of the first one."""
    run = replace(run, num_rounds=1)
    if kind == "b2":
        run = replace(run, num_rounds=2, optimization=replace(run.optimization, replay_rounds=1))
    if kind == "dpo":  # pairs of one prompt, whose members two processes have sampled
        run = replace(run, objective=DPO(beta=25.0), rollout=Rollout(num_branches=1), selection=All())
    settings = tmp_path / "settings.toml"
    settings.write_text(to_toml(run), encoding="utf-8")
    alone, both = tmp_path / "1", tmp_path / "2"
    alone.mkdir()
    several.main(str(settings), str(alone), -1)
    torchrun(2, settings, both)
    assert furthest(adapter(both, 0), adapter(both, 1)) == 0
    assert furthest(adapter(alone, 0), adapter(both, 0)) <= 1e-5
    for one, two in zip(metrics_of(alone), metrics_of(both), strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    pictures = [(output / "run" / "scores.jsonl").read_text(encoding="utf-8").splitlines() for output in (alone, both)]
    for one, two in zip(*(map(json.loads, lines) for lines in pictures), strict=True):
        assert (one["round"], one["group"], one["prompt"]) == (two["round"], two["group"], two["prompt"])
        assert one["reward"] == pytest.approx(two["reward"], rel=1e-3, abs=1e-5)
    assert (both / "run" / "lora" / "README.md").is_file()
    before = [json.loads((output / "run" / "evaluation.json").read_text())["before"] for output in (alone, both)]
    assert before[0] == pytest.approx(before[1], rel=1e-5)


@pytest.mark.slow
def test_a_failure_in_one_process_stops_all(run: Run, tmp_path: Path) -> None:
    settings, output = tmp_path / "settings.toml", tmp_path / "2"
    settings.write_text(to_toml(run), encoding="utf-8")
    torchrun(2, settings, output, failing_rank=1)
    told = [(output / f"stopped{rank}.txt").read_text(encoding="utf-8") for rank in (0, 1)]
    assert told[0] == told[1] == "Stopped in round 2: the reward failed: the server is gone"
    assert [path.name for path in (output / "run" / "checkpoints").iterdir()] == ["round_00001"]


@pytest.mark.parametrize("num", [1, 2, 3, 8])
@pytest.mark.parametrize("things", [0, 1, 7, 8, 64])
def test_shares_are_all_there_is_and_even(num: int, things: int) -> None:
    shares = [list(Ranks(rank=rank, world_size=num).shard(things)) for rank in range(num)]
    assert [i for share in shares for i in share] == list(range(things))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
