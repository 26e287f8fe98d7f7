"""The reward ocr: flow_grpo's match, prompts, engines that are missing."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from b2diffurl.errors import UserError
from b2diffurl.rewards import RewardSettings, check_reward, score_images
from b2diffurl.rewards.ocr import OCRReward, edit_distance, match
from b2diffurl.rewards.settings import OCRSettings
from b2diffurl.run.recipes import recipe
from b2diffurl.run.resolve import resolve
from tests.reference import ocr as twin


def test_the_match_is_that_of_flow_grpo() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abAB ", k=rng.randrange(1, 9))) + "b" for _ in range(300)]
    for text, target in zip(words, reversed(words), strict=True):
        assert edit_distance(text, target) == twin.distance(text, target)
        assert match(text, target) == twin.reward(text, f'a sign with "{target}" on it')


def test_a_score_and_the_text_belong_to_each_image() -> None:
    """The engine is any function from an RGB image to its text; this one reads the color."""

    def read(image: Image.Image) -> str:
        assert image.mode == "RGB"
        pixel = image.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return {255: "Hello\nworld", 0: "help"}[pixel[0]]

    images = torch.stack([torch.ones(3, 4, 4), torch.zeros(3, 4, 4)])
    prompts = ['a cat with "hello world" on a sign', 'a dog, "Hell" and "no"']
    scored = score_images(OCRReward(read), images, prompts)
    assert scored.scores.tolist() == [1.0, 0.75]
    assert scored.info == {"text": ["Hello\nworld", "help"]}


@pytest.mark.parametrize("prompt", ["a cat", 'a "cat', 'a sign with "" on it', 'a sign with " " on it'])
def test_a_prompt_without_quoted_text_is_rejected(prompt: str) -> None:
    with pytest.raises(UserError, match="reward ocr needs a text in double quotes in every prompt, but a prompt is "):
        OCRReward(lambda _: "")(torch.zeros(1, 3, 4, 4), [prompt])


@pytest.mark.parametrize("engine", ["easyocr", "pytesseract"])
def test_a_missing_engine_is_reported_before_anything_is_loaded(engine: str) -> None:
    with pytest.raises(UserError) as error:
        check_reward("ocr", RewardSettings(ocr=OCRSettings(engine=engine)))  # pyright: ignore[reportArgumentType]
    assert str(error.value) == f"ocr.engine is '{engine}', which is not installed; run pip install {engine}."


def test_a_run_whose_prompts_have_no_quoted_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytesseract.py").touch()  # found, but not imported
    monkeypatch.syspath_prepend(tmp_path)
    run = replace(recipe("sd15"), prompts="template1-train", ocr=OCRSettings(engine="pytesseract"))
    for changed in (replace(run, reward="ocr"), replace(run, reward="jpeg-size:compressible", watch=("ocr",))):
        with pytest.raises(UserError, match="reward ocr needs a text in double quotes in every prompt"):
            resolve(changed)
