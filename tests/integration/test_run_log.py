"""What a run folder keeps besides its numbers: run.log, notes, and more rounds than planned."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

import b2diffurl
from b2diffurl.algorithm.collapse import Collapse
from b2diffurl.algorithm.rollout import Rollout
from b2diffurl.algorithm.schedule import Full
from b2diffurl.cli import main
from b2diffurl.config import read_toml, to_toml
from b2diffurl.errors import RunStopped
from b2diffurl.run.settings import Logging, Run
from b2diffurl.training.trainer import train

MakeRun = Callable[..., Run]
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ")
REWARD = "def f(images, prompts):\n    return {expression}\n"


def constant(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return 0 * images.mean(dim=(1, 2, 3)) + 0.5


def tiny(small_run: MakeRun, prompts_file: Path, **changes: Any) -> Run:
    run = small_run(
        prompts=str(prompts_file), schedule=Full(), reward_queries_per_round=4, rollout=Rollout(num_branches=2),
        logging=Logging(num_samples=1, grid_side=0), collapse=Collapse(max_contrast_factor=1e9), **changes,
    )  # fmt: skip
    return replace(run, sampler=replace(run.sampler, num_inference_steps=2))


def assert_harmless(folder: Path, secrets: Sequence[str]) -> None:
    """No pickle or zip archive of one, and no token or key."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert file.suffix in {".toml", ".json", ".jsonl", ".log", ".html", ".png", ".safetensors", ".md"}
        assert not content.startswith((b"\x80", b"PK"))
        assert not any(secret.encode() in content for secret in secrets)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


@pytest.mark.slow
def test_a_run_that_gets_more_rounds_equals_one_that_was_planned_so(
    tmp_path: Path,
    small_run: MakeRun,
    prompts_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the command line. The file of the reward changes in between: one warning, in run.log and the report."""
    reward = tmp_path / "my.py"
    reward.write_text(REWARD.format(expression="images.mean(dim=(1, 2, 3))"), encoding="utf-8")
    run = tiny(small_run, prompts_file, num_rounds=2, reward=f"{reward}:f")
    whole = train(run, output=tmp_path / "whole")
    secrets = ("hf_SECRET-of-this-test", "key-SECRET-of-this-test")
    for name, value in zip(("HF_TOKEN", "OPENAI_API_KEY"), secrets, strict=True):
        monkeypatch.setenv(name, value)
    (tmp_path / "short.toml").write_text(to_toml(replace(run, num_rounds=1)), encoding="utf-8")
    parts = tmp_path / "parts"
    assert main(["train", str(tmp_path / "short.toml"), "--output", str(parts)]) == 0
    reward.write_text(reward.read_text(encoding="utf-8") + "# the same\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["train", str(parts / "run.toml"), "--resume", "--num-rounds", "2"]) == 0
    changed = f"the source file of reward {reward}:f changed between rounds 1 and 2"
    assert capsys.readouterr().out.count(changed) == 1
    assert metrics_of(parts) == metrics_of(whole)
    ours, theirs = (load_file(f / "lora" / "pytorch_lora_weights.safetensors") for f in (whole, parts))
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    log = (parts / "run.log").read_text(encoding="utf-8")
    assert log.count(changed) == 1
    assert (parts / "report.html").read_text(encoding="utf-8").count(changed) == 1
    assert all(TIME.match(line) or line.startswith("    ") for line in log.splitlines())
    assert len(re.findall(r" begins with round [12]\n", log)) == 2
    assert "1 round of 4 reward queries into" in log
    assert "adapter  " in log
    assert_harmless(parts, secrets)
    assert read_toml(parts / "run.toml", Run).num_rounds == 2
    assert main(["train", str(parts / "run.toml"), "--resume", "--num-rounds", "1"]) == 2
    assert "num_rounds is 1 but" in capsys.readouterr().err
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n", encoding="utf-8")
    assert main(["train", str(parts / "run.toml"), "--resume", "--reward", f"{broken}:f"]) == 2
    assert f'File "{broken}", line 1' in (parts / "run.log").read_text(encoding="utf-8")


def test_a_run_that_trains_nothing_warns_once(tmp_path: Path, small_run: MakeRun, prompts_file: Path) -> None:
    run = tiny(small_run, prompts_file, num_rounds=4)
    messages: list[str] = []
    output = train(run, output=tmp_path / "run", reward=constant, on_message=messages.append)
    assert messages == [
        "nothing was trained in 3 rounds in a row: all rewards of round 3 are 0.5; use a reward that differs between "
        "images."
    ]
    assert messages[0] in (output / "run.log").read_text(encoding="utf-8")


def test_the_traceback_of_a_reward_is_in_the_log(tmp_path: Path, small_run: MakeRun, prompts_file: Path) -> None:
    def breaks(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise b2diffurl.errors.RewardFailed(f"no {len(images)} {len(prompts)}") from ZeroDivisionError("cause")

    with pytest.raises(RunStopped):
        train(tiny(small_run, prompts_file), output=tmp_path / "run", reward=breaks)
    log = (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    assert "ZeroDivisionError: cause" in log
    assert "test_run_log.py" in log
    assert "Stopped in round 1: the reward failed: no 4 4" in log
