"""Learning on the embedded model, about a minute each: CLIPScore of the same prompts and noise, before and after."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from b2diffurl.algorithm.schedule import Backward
from b2diffurl.models import LoRA
from b2diffurl.run.recipes import recipe
from b2diffurl.run.settings import Logging, Sampler
from b2diffurl.training.trainer import train

PROMPTS = ("a bear riding a bike", "a cat playing chess", "a cow washing dishes", "a dog riding a bike")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_rounds"),
    [("emoji-b2-paper", 6), ("emoji-dpo", 6), ("emoji-policy-gradient", 24), ("emoji-dpok", 24)],
)
def test_clip_score_rises(name: str, num_rounds: int, tmp_path: Path) -> None:
    """As the recipes have it, with fewer steps, prompts and pictures."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    base = recipe(name)
    run = replace(
        base,
        prompts=str(prompts),
        num_rounds=num_rounds,
        reward_queries_per_round=96 * 6 // num_rounds,
        sampler=Sampler(num_inference_steps=10, guidance_scale=1.0),
        schedule=Backward(tau_first=7),
        lora=LoRA(),
        logging=Logging(num_samples=1, checkpoint_every_rounds=num_rounds, num_evaluation_images=96),
    )
    folder = train(run, output=tmp_path / "run")
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert found["after"]["clip_score"] > found["before"]["clip_score"] + 0.02
