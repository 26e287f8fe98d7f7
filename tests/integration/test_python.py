"""`train`, `sample` and `evaluate` from Python: prompts and rewards of the session, progress, and the result."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import b2diffurl
from b2diffurl.analysis.sample import Generation
from b2diffurl.cli import main
from b2diffurl.cli.notebook import NotebookObserver
from b2diffurl.errors import UserError
from b2diffurl.rewards.custom import recorded_name, weighted_name
from b2diffurl.run.settings import Run

PROMPTS = ["a bear riding a bike", "a cat playing chess"]
QUICK = Generation(num_inference_steps=4)


def brightness(images: Tensor, prompts: Any) -> Tensor:  # noqa: ARG001
    return images.mean(dim=(1, 2, 3))


@pytest.fixture
def tiny(small_run: Callable[..., Run]) -> Run:
    run = small_run()
    return replace(run, num_rounds=1, logging=replace(run.logging, grid_side=2, num_evaluation_images=2))


def test_a_run_from_python_is_recorded_resumed_and_shown(
    tiny: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"clip:emoji": 1, (lambda images, prompts: brightness(images, prompts)): 0.5}
    result = b2diffurl.train(tiny, output="run", prompts=PROMPTS, reward=weights, progress="terminal")
    assert "queries" in capsys.readouterr().out  # the heading of the console
    assert json.loads(Path("run/prompts.json").read_text("utf-8")) == PROMPTS
    assert result.run.prompts == "run/prompts.json"
    assert result.run.reward == "1*clip:emoji + 0.5*session:lambda"

    assert [line["round"] for line in result.metrics] == [1]
    assert result.evaluation is not None
    assert result.evaluation.after["clip_score"] > 0
    assert len(result.before) == len(result.after) == 2
    assert result.before[0].size == (32, 32)
    assert result.adapter.is_dir()
    assert result.report == result / "report.html" == Path("run/report.html")
    assert Path(result) == result.folder
    html = result._repr_html_()
    assert html.count("data:image/png") == 4
    assert all(prompt in html for prompt in PROMPTS)
    assert "Reward" in repr(b2diffurl.Result("run"))
    scores = json.loads(Path("run/samples/round_00001/scores.json").read_text("utf-8"))
    assert len(scores["rewards"]) == 2
    assert set(scores["judged"]) == {"clip_score", "scene_accuracy"}
    assert Path("run/samples/round_00000/grid.png").is_file()
    assert len(json.loads(Path("run/samples/round_00001/groups.json").read_text("utf-8"))) == 4

    # Only Python can continue it.
    assert b2diffurl.train(tiny, output="run", prompts=PROMPTS, reward=weights, resume=True, progress="none") / "" == (
        result.folder
    )
    monkeypatch.setattr("b2diffurl.rewards.custom._GIVEN", {})
    assert main(["train", "run/run.toml", "--resume"]) == 2
    assert "an object of a Python session, which has no file; continue the run from Python" in capsys.readouterr().err

    generated = b2diffurl.sample("emoji", PROMPTS, lora=result, generation=QUICK, progress="none")
    assert generated.pil[1].size == (32, 32)
    assert generated._repr_html_().count("<img") == 2
    assert b2diffurl.evaluate("emoji", PROMPTS, lora="run", num_images=2, generation=QUICK, progress="none")


def test_functions_are_named_by_what_imports_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def f(images, prompts):\n    return images.mean(dim=(1, 2, 3))\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import my_rewards  # pyright: ignore[reportMissingImports]

    assert recorded_name(my_rewards.f) == "my_rewards.py:f"
    assert weighted_name({my_rewards.f: 2.0}) == "2.0*my_rewards.py:f"
    assert recorded_name(brightness).endswith("test_python:brightness")
    first, second = (lambda images, prompts: (images, prompts), lambda images, prompts: (prompts, images))
    assert weighted_name({first: 1, second: -1}) == "1*session:lambda + -1*session:lambda_2"


@pytest.mark.parametrize(
    ("weights", "message"),
    [({}, "single rewards"), ({"clip + 2*jpeg-size:compressible": 1}, "more than once|single rewards|weight"),
     ({"clip:emoji": 0}, "weight 0")],
)  # fmt: skip
def test_invalid_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weighted_name(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run": "emoji-quikstart"}, "emoji-quikstart"),
        ({"prompts": []}, r"^prompts is empty; give one prompt or more\.$"),
        ({"prompts": ["a cat", "a cat"]}, r"^prompts holds 'a cat' more than once; keep each prompt once\.$"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(arguments: Any, message: str, tmp_path: Path) -> None:
    settings = {"run": "emoji-b2-paper", "output": tmp_path / "run"} | arguments
    with pytest.raises(UserError, match=message):
        b2diffurl.train(settings.pop("run"), **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_values_of_other_types_are_refused(tmp_path: Path) -> None:
    """In a process of its own: types are not checked there."""
    script = """
import b2diffurl
for wrong in ({"prompts": ["a cat", 3]}, {"progress": "bars"}, {"reward": 3}, {"reward": {3: 1}}):
    try:
        b2diffurl.train("emoji-b2-paper", output="run", **wrong)
    except b2diffurl.UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[0].startswith("prompts holds 3, which is not a prompt")
    assert lines[1] == "progress is 'bars'; give one of: auto, terminal, notebook, none."
    assert lines[2].startswith("reward is 3, which is not a function")
    assert lines[3].startswith("reward is 3, which is not a function")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_run_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which holds no run; give the folder of a run"):
        b2diffurl.Result(tmp_path)


def test_a_notebook_shows_bars_and_lines_in_one_place() -> None:
    shown: list[str] = []
    seconds = iter(range(100))
    observer = NotebookObserver(shown.append, num_rounds=2, clock=lambda: float(next(seconds)))
    observer.on_phase("sample <x>", total=4)
    observer.on_progress(3)
    assert '<progress value="3" max="4"></progress> sample &lt;x&gt; 3/4' in shown[-1]
    observer.on_round({"round": 1, "reward_queries": 16, "reward/mean": 0.5})
    observer.on_message("a <warning>")
    observer.close()
    assert '<progress value="1" max="2"></progress> rounds 1/2' in shown[-1]
    assert "0.5000" in shown[-1]
    assert "a &lt;warning&gt;" in shown[-1]
    assert "sample" not in shown[-1].replace("sample  update", "")
