"""The examples of CONTRIBUTING.md work as printed, and a run can consist of a user's components."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from b2diffurl.cli import main

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n# (\w+\.py)\n(.*?)```\n\n {4}b2diffurl (.*?)\n", CONTRIBUTING, re.DOTALL)
SMALL = shlex.split(
    "--output out --num-rounds 2 --reward-queries-per-round 8 --sampler.num-inference-steps 4 "
    "--logging.num-evaluation-images 0 --logging.evaluate-every-rounds 0 --logging.num-samples 1"
)
COMPONENTS = '''
import torch

from b2diffurl.algorithm.records import Selection


class Shrinking:
    """A schedule without a base class: 3 steps in the first round, then 2."""

    def interval_length(self, round_number, *, num_rounds, num_inference_steps, past=()):
        return 3 if round_number == 1 else 2

    def check(self, *, num_inference_steps, num_branches):
        pass

    def metrics(self, *, num_rounds, num_inference_steps, past):
        return {"rounds_so_far": len(past)}


class FirstBranches:
    """A selection: the first `count` branches of every group, without pairs."""

    def __init__(self, count):
        self.count = count

    def select(self, advantages, prompts):
        index = [(group, branch) for group in range(len(prompts)) for branch in range(self.count)]
        return Selection(index=torch.tensor(index), pairs=torch.zeros(0, 2, 2, dtype=torch.long))


class Ranks:
    """An advantage: the rank of the reward within its branch group, from -1 to 1."""

    num_past_rounds = 0

    def normalize(self, rewards, prompts, *, past):
        ranks = rewards.argsort(dim=1).argsort(dim=1).double()
        return 2 * ranks / (rewards.shape[1] - 1) - 1
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_complete(run: Path) -> list[dict[str, float]]:
    """Check that a run folder has every file of a finished run; return its metrics by round."""
    names = {path.name for path in run.iterdir()}
    files = {"run.toml", "env.json", "metrics.jsonl", "scores.jsonl", "samples", "checkpoints", "lora", "report.html"}
    assert files <= names
    assert "stopped.json" not in names
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [values["round"] for values in metrics] == [1, 2]
    # At 4 denoising steps the trust region reverts the optimizer steps of some rounds.
    assert any(values["update/num_optimizer_steps"] > 0 for values in metrics)
    return metrics


def test_each_kind_of_component_has_an_example() -> None:
    assert [name for name, _, _ in EXAMPLES] == ["my_reward.py", "my_schedule.py", "my_objective.py"]
    assert all(f"{name}:" in command for name, _, command in EXAMPLES)


@pytest.mark.parametrize(("name", "code", "command"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_the_examples_train(name: str, code: str, command: str, folder: Path) -> None:
    (folder / name).write_text(code, encoding="utf-8")
    first_interval = [] if "schedule" in command else ["--schedule.tau-first", "2"]
    assert main([*shlex.split(command), *SMALL, *first_interval]) == 0
    metrics = check_complete(folder / "out")
    if "schedule" in command:
        assert [values["interval/length"] for values in metrics] == [3, 4]
    assert name in (folder / "out" / "run.toml").read_text(encoding="utf-8")


def test_a_run_of_a_users_schedule_selection_and_advantage(folder: Path) -> None:
    (folder / "mine.py").write_text(COMPONENTS, encoding="utf-8")
    words = ["--schedule.use", "mine.py:Shrinking", "--advantage.use", "mine.py:Ranks"]
    words += ["--selection.use", "mine.py:FirstBranches", "--selection.options", "count", "3"]
    assert main(["train", "emoji-b2-paper", *words, *SMALL]) == 0
    metrics = check_complete(folder / "out")
    assert [values["interval/length"] for values in metrics] == [3, 2]
    assert [values["interval/rounds_so_far"] for values in metrics] == [1, 2]
    assert [values["selection/num_trajectories"] for values in metrics] == [6, 6]  # 2 groups, 3 branches of each
    assert [values["selection/num_pairs"] for values in metrics] == [0, 0]
    assert [values["advantage/zero_fraction"] for values in metrics] == [0, 0]  # ranks -1, -1/3, 1/3, 1
    settings = tomllib.loads((folder / "out" / "run.toml").read_text(encoding="utf-8"))
    assert settings["selection"] == {"use": "custom", "name": "mine.py:FirstBranches", "options": {"count": 3}}
