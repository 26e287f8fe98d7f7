"""Every user error: one sentence, exit code 2, nothing written, no model loaded."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from b2diffurl.algorithm.interfaces import Objective
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.cli import main
from b2diffurl.errors import RunStopped

QUICK = "emoji-b2-paper"
UNBRANCHED = ["train", QUICK, "selection:all", "--rollout.num-branches", "1"]


class Mine(Objective):
    """An objective in a user's module."""

    def __init__(self, *, scale: float = 1.0, name: str = "mine") -> None:
        self.scale, self.name = scale, name

    def loss(self, batch: StepBatch) -> Tensor:
        return -self.scale * batch.log_prob * batch.advantage


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must be refused and return its message."""
    assert main(words) == 2
    output = capsys.readouterr().err.strip()
    assert output.startswith("b2diffurl: ")
    assert "\n" not in output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["fly"], ["'fly'", "train, sample, evaluate"]),
        (["train"], ["needs a recipe", QUICK]),
        (["train", "no-such-recipe"], ["'no-such-recipe'", QUICK]),
        (["train", "missing.toml"], ["missing.toml", "cannot be read"]),
        (["train", QUICK, "--num-rounds", "0"], ["num_rounds is 0"]),
        (["train", QUICK, "--seed", "-1"], ["seed is -1"]),
        (["train", QUICK, "--reward-queries-per-round", "10"], ["reward_queries_per_round is 10", "multiple"]),
        (["train", QUICK, "--rollout.num-branches", "1"], ["num_branches is 1", "selection:all"]),
        (["train", QUICK, "--sampler.eta", "0"], ["sampler.eta is 0", "give 1"]),
        (["train", QUICK, "--sampler.num-inference-steps", "5"], ["tau_first is 14", "at most 5"]),
        (["train", QUICK, "--selection.pos-threshold", "-0.5"], ["pos_threshold is -0.5", "above 0"]),
        (["train", QUICK, "--selection.neg-threshold", "0.5"], ["neg_threshold is 0.5", "below 0"]),
        (["train", QUICK, "--objective.clip-range", "0"], ["clip_range is 0", "above 0"]),
        (["train", QUICK, "objective:policy-gradient"], ["objective policy-gradient", "is 6", "set both to 1"]),
        (["train", QUICK, "objective:dpok"], ["objective dpok", "is 6", "set both to 1"]),
        (["train", QUICK, "objective:dpok", "--objective.beta", "-1"], ["objective.beta is -1", "0 (no KL term)"]),
        (["train", QUICK, "objective:dpo", "--objective.beta", "0"], ["objective.beta is 0", "above 0"]),
        ([*UNBRANCHED, "objective:dpo", "--reward-queries-per-round", "45"], ["dpo", "45 prompts", "num_branches"]),
        ([*UNBRANCHED, "advantage:branch"], ["num_branches is 1", "advantage branch", "advantage:prompt-history"]),
        ([*UNBRANCHED, "schedule:adaptive"], ["num_branches is 1", "schedule adaptive", "schedule:backward"]),
        (["train", QUICK, "schedule:table", "--schedule.rows", "2", "14"], ["schedule.rows is ((2, 14),)", "round 1"]),
        (["train", QUICK, "schedule:table", "--schedule.rows", "1", "21"], ["schedule.rows is 21", "at most 20"]),
        (["train", QUICK, "objective:nowhere:Mine"], ["'nowhere:Mine'", "no module 'nowhere'", "Python path"]),
        (["train", QUICK, "objective:math:Mine"], ["'math:Mine'", "no class 'Mine'"]),
        (["train", QUICK, "objective:math:"], ["'math:'", "module:Class"]),
        (["train", QUICK, "--prompts", "missing.txt"], ["'missing.txt'", "template1-train"]),
        (["train", QUICK, "--model", "./nowhere"], ["'./nowhere'", "diffusers directory"]),
        (["train", QUICK, "--reward", "no_such_module:f"], ["no_such_module", "Python path"]),
        (["train", QUICK, "--reward", "math:no_such_function"], ["no_such_function"]),
        (["train", QUICK, "--resume"], ["holds no run to resume"]),
        (["show"], ["needs a recipe"]),
        (["show", QUICK, "more"], ["'more'"]),
        (["sample", "./nowhere", "--output", "out"], ["'./nowhere'"]),
        (["sample", "emoji", "--output", "out", "--prompts", ""], ["prompts is empty"]),
        (["sample", "emoji", "--output", "out", "--lora", "nowhere"], ["'nowhere'", "lora folder"]),
        (["evaluate", "emoji", "--metrics", "beauty"], ["'beauty'", "clip_score"]),
        (["evaluate", "emoji", "--json", "nowhere/numbers.json"], ["nowhere/numbers.json"]),
        (["evaluate", "emoji", "--num-images", "0"], ["num_images is 0"]),
        (["study", "no-such-study", "--output", "out"], ["'no-such-study'", "quickstart"]),
        (["study", "alignment", "--scale", "sd3"], ["'sd3'", "sd14"]),
        (["study", "alignment", "--num-images", "1000"], ["num_images is 1000", "256"]),
        (["study", "alignment", "--num-jobs", "0"], ["num_jobs is 0"]),
    ],
)
def test_user_errors_are_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    fragments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    output = refuse(capsys, *words)
    assert all(fragment in output for fragment in fragments), output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("", "holds no prompt"), ("# only a remark\n\n", "holds no prompt"), ("a cat\na cat\n", "more than once")],
)
def test_prompts_files_that_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fragment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text(text, encoding="utf-8")
    assert fragment in refuse(capsys, "train", QUICK, "--prompts", "prompts.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_too_long_a_prompt_is_named_with_what_would_be_cut(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a cat playing chess\n" + "a bear riding a bike " * 4, encoding="utf-8")
    output = refuse(capsys, "train", QUICK, "--prompts", "prompts.txt")
    assert "'a bear riding a bike a bear" in output
    assert "would be cut" in output
    assert "'riding a bike a bear riding a bike'" in output or "bike" in output.split("reads 16:")[1]
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


@pytest.mark.parametrize(
    ("missing", "fragment"),
    [("model_index.json", "no model_index.json"), ("unet", "no unet"), ("class", "FluxPipeline")],
)
def test_model_directories_without_a_pipeline(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, missing: str, fragment: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    name = "FluxPipeline" if missing == "class" else "StableDiffusionPipeline"
    if missing != "model_index.json":
        (model / "model_index.json").write_text(f'{{"_class_name": "{name}"}}', encoding="utf-8")
    if missing == "class":
        (model / "unet").mkdir()
        (model / "unet" / "config.json").write_text("{}", encoding="utf-8")
    assert fragment in refuse(capsys, "train", QUICK, "--model", str(model), "--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("nonsense = 1", "nonsense is not a setting"),
        ("[sampler]\nguidance = 2.0", "sampler.guidance is not a setting"),
        ("num_rounds = 'many'", "num_rounds"),
        ("[schedule]\nuse = 'sideways'", "sideways"),
        ("seed = ", "not valid TOML"),
        ('[sampler]\n"a\\nb\\u001b" = 1', r"sampler.a\nb\x1b is not a setting"),
    ],
)
def test_errors_in_a_toml_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, fragment: str) -> None:
    file = tmp_path / "mine.toml"
    start = 'model = "emoji"\nreward = "clip:emoji"\nprompts = "template1-train"\nreward_queries_per_round = 16\n'
    rounds = "" if line.startswith("num_rounds") else "num_rounds = 1\n"
    file.write_text(start + rounds + line + "\n", encoding="utf-8")
    output = refuse(capsys, "train", str(file), "--output", str(tmp_path / "run"))
    assert fragment in output
    assert not (tmp_path / "run").exists()


def test_unknown_flags_are_refused_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", QUICK, "--output", str(tmp_path / "run"), "--sampler.guidance", "2"])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert "--sampler.guidance" in captured.err + captured.out
    assert not (tmp_path / "run").exists()


def test_show_prints_a_run_that_train_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", QUICK]) == 0
    file = tmp_path / "mine.toml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["train", str(file), "--seed", "7", "--dry-run"]) == 0
    assert "seed = 7" in capsys.readouterr().out


def test_flags_choose_components_and_override_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", QUICK, "--dry-run", "--rollout.num-branches", "1", "schedule:full", "selection:all"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert 'use = "full"' in output
    assert 'use = "all"' in output
    assert "num_branches = 1" in output


ONE_STEP = ["--optimization.num-minibatches", "1"]


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["objective:dpo"], {"objective": {"use": "dpo", "beta": 0.1}}),
        (["objective:dpo", "--objective.beta", "5"], {"objective": {"use": "dpo", "beta": 5.0}}),
        (["objective:dpok", *ONE_STEP, "--objective.beta", "0"], {"objective": {"use": "dpok", "beta": 0.0}}),
        (["objective:policy-gradient", *ONE_STEP], {"objective": {"use": "policy-gradient"}}),
        (
            ["schedule:table", "--schedule.rows", "1", "14", "3", "20"],
            {"schedule": {"use": "table", "rows": [[1, 14], [3, 20]]}},
        ),
        (
            ["schedule:table", "--schedule.rows", "1", "14", "--seed", "3"],
            {"schedule": {"use": "table", "rows": [[1, 14]]}, "seed": 3},
        ),
        (["advantage:batch"], {"advantage": {"use": "batch", "std_floor": 1e-4, "max_advantage": 5.0}}),
        (["advantage:branch", "objective:dpo"], {"advantage": {"use": "branch"}, "objective": {"use": "dpo"}}),
        (
            ["selection:all", "--rollout.num-branches", "1", "objective:dpo"],
            {"selection": {"use": "all"}, "rollout": {"num_branches": 1}, "objective": {"use": "dpo"}},
        ),
        (["schedule:adaptive", "--schedule.window", "3"], {"schedule": {"use": "adaptive", "window": 3}}),
        (["--logging.kl-to-reference"], {"logging": {"kl_to_reference": True}}),
        (
            [f"objective:{__name__}:Mine"],
            {"objective": {"use": "custom", "name": f"{__name__}:Mine", "options": {}}},
        ),
        (
            [f"objective:{__name__}:Mine", "--objective.options", "scale", "2.5", "name", "a b"],
            {"objective": {"name": f"{__name__}:Mine", "options": {"scale": 2.5, "name": "a b"}}},
        ),
    ],
)
def test_any_combination_of_components_is_given_by_flags_and_read_back(
    words: list[str], written: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def within(subset: Any, table: Any) -> bool:
        if isinstance(subset, dict):
            return all(within(value, table[key]) for key, value in subset.items())
        return subset == table

    assert main(["train", QUICK, "--dry-run", *words]) == 0
    output = capsys.readouterr().out
    assert within(written, tomllib.loads(output)), output
    file = tmp_path / "mine.toml"
    file.write_text(output, encoding="utf-8")
    assert main(["train", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out == output


def test_a_users_objective_in_a_file_has_its_options_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'model = "emoji"\nreward = "clip:emoji"\nprompts = "template1-train"\nnum_rounds = 1\n'
        f'reward_queries_per_round = 16\n[objective]\nuse = "{__name__}:Mine"\nscale = 0.5\n',
        encoding="utf-8",
    )
    assert main(["train", str(file), "--dry-run"]) == 0
    output = tomllib.loads(capsys.readouterr().out)["objective"]
    assert output == {"use": "custom", "name": f"{__name__}:Mine", "options": {"scale": 0.5}}


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("note", ["", "The last good checkpoint is kept."])
def test_a_stopped_run_mentions_a_checkpoint_only_if_there_is_one(
    note: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(words: list[str]) -> int:
        assert words
        error = RunStopped(round_number=1, cause="the reward failed.")
        if note:
            error.add_note(note)
        raise error

    monkeypatch.setattr("b2diffurl.cli._dispatch", stop)
    assert main(["train"]) == 1
    assert capsys.readouterr().err.strip() == f"b2diffurl: Stopped in round 1: the reward failed. {note}".strip()


def test_a_reader_that_ends_early_is_no_error() -> None:
    command = [sys.executable, "-m", "b2diffurl.cli", "show", "emoji-quickstart"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
