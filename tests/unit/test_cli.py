"""Every mistake of the user: one sentence, exit code 2, nothing written, no model loaded."""

from pathlib import Path

import pytest

from b2diffurl.cli import main

QUICK = "emoji-quickstart"


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must be refused and give its one sentence."""
    assert main(words) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("b2diffurl: ")
    assert "\n" not in told
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["fly"], ["'fly'", "train, sample, evaluate"]),
        (["train"], ["wants a recipe", QUICK]),
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
        (["train", QUICK, "--prompts", "missing.txt"], ["'missing.txt'", "template1-train"]),
        (["train", QUICK, "--model", "./nowhere"], ["'./nowhere'", "diffusers directory"]),
        (["train", QUICK, "--reward", "no_such_module:f"], ["no_such_module", "Python path"]),
        (["train", QUICK, "--reward", "math:no_such_function"], ["no_such_function"]),
        (["train", QUICK, "--resume"], ["holds no run to resume"]),
        (["show"], ["wants a recipe"]),
        (["show", QUICK, "more"], ["'more'"]),
        (["sample", "./nowhere", "--output", "out"], ["'./nowhere'"]),
        (["sample", "emoji", "--output", "out", "--prompts", ""], ["prompts is empty"]),
        (["sample", "emoji", "--output", "out", "--lora", "nowhere"], ["'nowhere'", "lora folder"]),
        (["evaluate", "emoji", "--metrics", "beauty"], ["'beauty'", "clip_score"]),
        (["evaluate", "emoji", "--json", "nowhere/numbers.json"], ["nowhere/numbers.json"]),
        (["evaluate", "emoji", "--num-images", "0"], ["num_images is 0"]),
        (["study", "no-such-study", "--output", "out"], ["'no-such-study'", "quickstart"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    fragments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refuse(capsys, *words)
    assert all(fragment in told for fragment in fragments), told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("", "holds no prompt"), ("# only a remark\n\n", "holds no prompt"), ("a cat\na cat\n", "more than once")],
)
def test_prompts_files_without_use(
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
    told = refuse(capsys, "train", QUICK, "--prompts", "prompts.txt")
    assert "'a bear riding a bike a bear" in told
    assert "would be cut" in told
    assert "'riding a bike a bear riding a bike'" in told or "bike" in told.split("reads 16:")[1]
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


@pytest.mark.parametrize(
    ("part", "fragment"), [("model_index.json", "no model_index.json"), ("unet", "no unet"), ("class", "FluxPipeline")]
)
def test_model_directories_without_a_pipeline(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, part: str, fragment: str
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    name = "FluxPipeline" if part == "class" else "StableDiffusionPipeline"
    if part != "model_index.json":
        (model / "model_index.json").write_text(f'{{"_class_name": "{name}"}}', encoding="utf-8")
    if part == "class":
        (model / "unet").mkdir()
        (model / "unet" / "config.json").write_text("{}", encoding="utf-8")
    assert fragment in refuse(capsys, "train", QUICK, "--model", str(model), "--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("nonsense = 1", "nonsense is no setting"),
        ("[sampler]\nguidance = 2.0", "sampler.guidance is no setting"),
        ("num_rounds = 'many'", "num_rounds"),
        ("[schedule]\nuse = 'sideways'", "sideways"),
        ("seed = ", "no valid TOML"),
    ],
)
def test_mistakes_in_a_toml_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, fragment: str) -> None:
    file = tmp_path / "mine.toml"
    start = 'model = "emoji"\nreward = "clip:emoji"\nprompts = "template1-train"\nreward_queries_per_round = 16\n'
    rounds = "" if line.startswith("num_rounds") else "num_rounds = 1\n"
    file.write_text(start + rounds + line + "\n", encoding="utf-8")
    told = refuse(capsys, "train", str(file), "--output", str(tmp_path / "run"))
    assert fragment in told
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


def test_flags_choose_parts_and_override_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", QUICK, "--dry-run", "--rollout.num-branches", "1", "schedule:full", "selection:all"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert 'use = "full"' in told
    assert 'use = "all"' in told
    assert "num_branches = 1" in told


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out.strip()
