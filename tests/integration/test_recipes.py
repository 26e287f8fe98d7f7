"""Every recipe runs for one round, with evaluation on, on a tiny model of its family."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from b2diffurl import emoji
from b2diffurl.algorithm.schedule import Backward
from b2diffurl.rewards.bert.reward import BertSettings
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.settings import Run
from b2diffurl.training.trainer import train
from tests.marks import slow_except
from tests.tiny_bert import make_deberta, make_llava
from tests.tiny_models import BUILDERS

CLIP = f"clip:{emoji.clip_dir()}"  # stands in for ViT-H-14, which cannot be downloaded
FAST = ("emoji-quickstart", "emoji-dpo", "sd15", "sdxl", "paper-template1-bert")  # the others are slow tests
EMOJI_METRICS = {"clip_score", "scene_accuracy", "style_entropy", "inception_score"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models are made, each at its first use."""
    return tmp_path_factory.mktemp("models")


def family(model: str) -> str:
    return "sdxl" if "xl" in model else "sd1"


def reduced(run: Run, folder: Path) -> Run:
    """The recipe on a tiny model: 2 trunks, 4 denoising steps, 3 evaluation images."""
    if not emoji.is_embedded(run.model):
        directory = folder / family(run.model)
        run = replace(run, model=str(directory if directory.exists() else BUILDERS[family(run.model)](directory)))
        run = replace(run, reward=CLIP if run.reward == "clip" else run.reward, judge=CLIP)
    if run.reward == "bert":
        llava, deberta = folder / "llava", folder / "deberta"
        if not llava.exists():
            make_llava(llava)
            make_deberta(deberta, max_length=64)
        run = replace(
            run, bert=BertSettings(captioner=str(llava), encoder=str(deberta), num_layers=2, max_new_tokens=4)
        )
    if run.prompts == "template3-train":  # most of them are too long for the tiny tokenizer's 16 tokens
        prompts = folder / "short.txt"
        prompts.write_text("fox on car\nbox under car\ncar near fox\n", encoding="utf-8")
        run = replace(run, prompts=str(prompts))
    run = replace(run, reward=run.reward or CLIP)
    if not run.prompts:
        prompts = folder / "prompts.txt"
        prompts.write_text("".join(f"a cat with {i} hats\n" for i in range(5)), encoding="utf-8")
        run = replace(run, prompts=str(prompts))
    return replace(
        run,
        num_rounds=1,
        reward_queries_per_round=8,
        sampler=replace(run.sampler, num_inference_steps=4),
        schedule=Backward(tau_first=2) if isinstance(run.schedule, Backward) else run.schedule,
        logging=replace(run.logging, num_evaluation_images=3, num_samples=1),
    )


@pytest.mark.parametrize("name", slow_except(FAST, RECIPES))
def test_a_recipe_trains_and_evaluates(name: str, folder: Path, tmp_path: Path) -> None:
    run = reduced(recipe(name), folder)
    output = train(run, output=tmp_path / "run")
    evaluation = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    expected = EMOJI_METRICS if emoji.is_embedded(run.model) else {"clip_score", "inception_score"}
    if run.reward == "bert":
        expected = expected | {"bert_score"}
    if run.held_out_fraction:
        expected = expected | {f"held_out_{metric}" for metric in expected}
    assert evaluation["before"].keys() == evaluation["after"].keys() == expected
