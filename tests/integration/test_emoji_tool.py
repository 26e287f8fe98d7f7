"""The training of the embedded model, in a few steps and without its font."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from b2diffurl.emoji import EMBEDDED, weights_dir
from b2diffurl.emoji.captioner import load_captioner
from b2diffurl.emoji.oracle import WEIGHTS_FILE, load_oracle
from b2diffurl.emoji.worlds import WORLDS
from b2diffurl.errors import UserError
from tools.emoji_model import autoencoder, card, denoiser, object_scenes, render
from tools.emoji_model.__main__ import EmojiModel, run
from tools.emoji_model.sources import SOURCES


def square(emoji: str, pixels: int) -> np.ndarray:
    """A sprite without a font: an opaque square whose gray level depends on the emoji."""
    sprite = np.full((pixels, pixels, 4), ord(emoji[-1]) % 97 / 97, dtype=np.float32)
    sprite[..., 3] = 1
    return sprite


@pytest.fixture
def no_font(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Font path that does not exist; scenes are rendered with squares, which no later test may find in the cache."""
    monkeypatch.setattr(render, "FONT", tmp_path / "missing.ttf")
    monkeypatch.setattr(render, "sprite", square)
    object_scenes._fruit.cache_clear()
    yield tmp_path / "missing.ttf"
    object_scenes._fruit.cache_clear()


def small(folder: Path, *, world: Any = "emoji", **changes: int) -> EmojiModel:
    stages = ("autoencoder", "oracle", "clip", "denoiser", "captioner")
    steps: dict[str, Any] = {f"{stage}_steps": 1 for stage in stages} | changes
    return EmojiModel(world=world, work=folder / "work", output=folder / "weights", denoiser_images=64, **steps)


def test_a_missing_font_is_reported_before_training(no_font: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(str(no_font))} was not found; install the Debian package"):
        run(small(tmp_path))
    assert not (tmp_path / "work").exists()


def test_the_folders_of_a_world_are_its_own() -> None:
    commands = [EmojiModel(world=world) for world in ("emoji", "emoji-objects")]
    assert [command.work_folder for command in commands] == [Path("runs/emoji-model"), Path("runs/emoji-objects-model")]
    assert [command.output_folder for command in commands] == [weights_dir(world) for world in EMBEDDED]


@pytest.mark.slow
@pytest.mark.parametrize("world", EMBEDDED)
def test_every_stage_trains_resumes_and_is_measured(
    world: str, no_font: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_font.touch()
    monkeypatch.setattr(autoencoder, "_NUM_SCALING_IMAGES", 64)
    monkeypatch.setattr(denoiser, "_ENCODE_BATCH_SIZE", 64)
    monkeypatch.setattr(card, "_NUM_IMAGES", 8)
    monkeypatch.setattr(card, "_RENDERS_PER_PROMPT", 1)
    run(small(tmp_path, world=world))
    first = load_file(tmp_path / "weights" / "oracle" / WEIGHTS_FILE)
    run(replace(small(tmp_path, world=world, oracle_steps=2), stages=("oracle",)))
    second = load_file(tmp_path / "weights" / "oracle" / WEIGHTS_FILE)
    assert not torch.equal(first["hidden.weight"], second["hidden.weight"])
    assert torch.load(tmp_path / "work" / "oracle.pt", weights_only=True)["step"] == 2
    assert load_oracle(WORLDS[world], tmp_path / "weights" / "oracle").hidden.weight.isfinite().all()
    run(replace(small(tmp_path, world=world, captioner_steps=2), stages=("captioner",)))
    assert torch.load(tmp_path / "work" / "captioner.pt", weights_only=True)["step"] == 2
    captioner = load_captioner(WORLDS[world], tmp_path / "weights" / "captioner")
    assert all(value.isfinite().all() for value in captioner.state_dict().values())
    text = (tmp_path / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    numbers = json.loads(text.split("```json")[1].split("```")[0])
    scores = [values for name, values in numbers.items() if name.startswith("base model at guidance 5")]
    assert len(scores) == len(SOURCES[world].measured)
    assert all({"scene_accuracy", "inception_score", "cartoon", "bert_score"} <= values.keys() for values in scores)
