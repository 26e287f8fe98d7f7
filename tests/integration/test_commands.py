"""The commands that need a model: sample and evaluate, and the functions behind them."""

import json
from pathlib import Path

import pytest
from PIL import Image

import b2diffurl
from b2diffurl.analysis.sample import Generation
from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.images import to_pil


def test_sample_writes_images_and_refuses_folders_that_are_not_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "emoji", "--output", str(tmp_path / "out"), "--num-inference-steps", "4"]
    words += ["--prompts", "a bear riding a bike", "a cat playing chess", "--num-images", "3"]
    assert main(words) == 0
    assert "3 images" in capsys.readouterr().out
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


def test_the_functions_give_what_the_commands_write(tmp_path: Path) -> None:
    prompts = ["a bear riding a bike", "a cat playing chess"]
    generated = b2diffurl.sample("emoji", prompts, num_images=3, seed=5, generation=Generation(num_inference_steps=4))
    assert generated.images.shape == (3, 3, 32, 32)
    assert generated.prompts == (*prompts, prompts[0])
    words = ["sample", "emoji", "--output", str(tmp_path / "out"), "--num-inference-steps", "4", "--seed", "5"]
    assert main([*words, "--prompts", *prompts, "--num-images", "3"]) == 0
    for index, image in enumerate(generated.images):
        assert Image.open(tmp_path / "out" / f"{index:04d}.png").tobytes() == to_pil(image).tobytes()
    metrics = b2diffurl.evaluate("emoji", prompts, num_images=3, generation=Generation(num_inference_steps=4))
    assert metrics.keys() == {"clip_score", "scene_accuracy", "style_entropy", "inception_score"}


@pytest.mark.parametrize("judge", ["reward", "none"])
def test_a_judge_that_needs_a_run_is_refused(judge: str) -> None:
    with pytest.raises(UserError, match=rf"^judge is '{judge}', which needs a run; give auto, clip or clip:MODEL\.$"):
        b2diffurl.evaluate("emoji", ["a bear riding a bike"], judge=judge)


REWARD_MODULE = """
calls = 0

def brightness(images, prompts):
    global calls
    calls += 1
    if calls == 2:
        raise KeyboardInterrupt
    return images.mean(dim=(1, 2, 3))
"""


def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interrupting_reward.py").write_text(REWARD_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    words = ["train", "emoji-b2-paper", "--output", str(folder), "--reward", "interrupting_reward:brightness"]
    words += ["--num-rounds", "2", "--reward-queries-per-round", "8", "--logging.num-evaluation-images", "0"]
    words += ["--sampler.num-inference-steps", "4", "--schedule.tau-first", "3", "--logging.num-samples", "1"]
    assert main([*words, "--track", "tensorboard"]) == 130
    assert "--resume" in capsys.readouterr().err
    assert len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert main(["train", str(folder / "run.toml"), "--resume", "--track", "tensorboard"]) == 0
    assert list((folder / "tensorboard" / "run").glob("events.*"))
    assert len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert "report.html" in capsys.readouterr().out
