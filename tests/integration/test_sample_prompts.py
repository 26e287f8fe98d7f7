"""Preview images of the run's own prompts: from fixed noise, checked before loading, part of the run on resume."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from b2diffurl.cli import main
from b2diffurl.errors import UserError
from b2diffurl.run.directory import RunDirectory
from b2diffurl.run.resolve import resolve
from b2diffurl.run.settings import Logging, Run
from b2diffurl.training.checkpoint import hash_prompts
from b2diffurl.training.outputs import preview_prompts
from b2diffurl.training.trainer import Trainer
from tests.conftest import perturb

OWN = ("a dog riding a bike", "a cow washing dishes", "a cat playing chess")


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    file = tmp_path / "own.txt"
    file.write_text("\n".join(OWN) + "\n", encoding="utf-8")
    return file


def test_previews_are_of_the_own_prompts_from_fixed_noise(
    small_run: Callable[..., Run], own_file: Path, prompts_file: Path, tmp_path: Path
) -> None:
    run = small_run(prompts=str(prompts_file), logging=Logging(num_samples=2, sample_prompts=str(own_file)))
    trainer = Trainer(resolve(run), directory=RunDirectory(tmp_path / "run"))

    def previews(round_number: int) -> list[np.ndarray]:
        trainer._save_previews(round_number)
        folder = tmp_path / "run" / "samples" / f"round_{round_number:05d}"
        return [np.asarray(Image.open(file)) for file in sorted(folder.glob("[0-9]*.png"))]

    before, again = previews(0), previews(1)
    assert json.loads((tmp_path / "run" / "samples" / "prompts.json").read_text(encoding="utf-8")) == list(OWN)
    assert len(before) == len(OWN)
    assert all(np.array_equal(*pair) for pair in zip(before, again, strict=True))
    perturb(trainer.model, scale=0.2)
    assert not any(np.array_equal(*pair) for pair in zip(before, previews(2), strict=True))


def test_other_sample_prompts_are_another_run(small_run: Callable[..., Run], own_file: Path) -> None:
    run = small_run(logging=Logging(sample_prompts=str(own_file)))
    before = hash_prompts(resolve(run))
    assert hash_prompts(resolve(small_run())) != before
    own_file.write_text(OWN[0], encoding="utf-8")
    assert hash_prompts(resolve(run)) != before


def test_training_prompts_are_spread_over_the_whole_list(small_run: Callable[..., Run]) -> None:
    resolved = resolve(small_run(logging=Logging(num_samples=16)))
    chosen = preview_prompts(resolved)
    places = [resolved.train_prompts.index(prompt) for prompt in chosen]
    assert len(set(places)) == 16
    assert max(places) >= len(resolved.train_prompts) * 15 // 16
    assert preview_prompts(replace(resolved, train_prompts=OWN)) == OWN


def test_mistakes_are_refused_before_anything_is_loaded(
    small_run: Callable[..., Run], own_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(source: Any) -> str:
        words = ["--logging.sample-prompts", str(source), "--output", str(tmp_path / "run")]
        assert main(["train", "emoji-b2-paper", *words]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "logging.sample_prompts is" in refused(tmp_path / "missing.txt")
    own_file.write_text("a dog " * 40, encoding="utf-8")
    assert "a dog a dog" in refused(own_file)
    with pytest.raises(UserError, match=r"^logging\.sample_prompts is 'nothing', which is neither a file nor"):
        resolve(small_run(logging=Logging(sample_prompts="nothing")))
