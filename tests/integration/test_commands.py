"""The commands that need a model: sample and evaluate."""

import json
from pathlib import Path

import pytest

from b2diffurl.cli import main


def test_sample_draws_pictures_and_leaves_full_folders_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "emoji", "--output", str(tmp_path / "out"), "--num-inference-steps", "4"]
    words += ["--prompts", "a bear riding a bike", "a cat playing chess", "--num-images", "3"]
    assert main(words) == 0
    assert "3 pictures" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"0000.png", "0001.png", "0002.png", "grid.png", "prompts.json"}
    prompts = json.loads((tmp_path / "out" / "prompts.json").read_text(encoding="utf-8"))
    assert prompts == ["a bear riding a bike", "a cat playing chess", "a bear riding a bike"]
    assert main(words) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_evaluate_prints_and_writes_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "numbers.json"
    words = ["evaluate", "emoji", "--prompts", "template1-test", "--num-images", "6", "--num-inference-steps", "4"]
    assert main([*words, "--json", str(file)]) == 0
    written = json.loads(file.read_text(encoding="utf-8"))
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(printed) == ["clip_score", "scene_accuracy", "style_entropy", "inception_score"]
    assert all(abs(float(printed[name]) - written[name]) < 1e-4 for name in printed)
    assert written["num_images"] == 6


def test_other_prompts_have_the_general_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "emoji", "--prompts", "a unicorn", "--num-images", "2", "--num-inference-steps", "4"]
    assert main(words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["clip_score", "inception_score"]
