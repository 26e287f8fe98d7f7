"""The model card: what the hub reads, what a reader needs, and nothing of this machine."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from b2diffurl.reporting.citations import papers_of
from b2diffurl.reporting.model_card import model_card, write_card
from b2diffurl.run.recipes import RECIPES, recipe

B2, DDPO, LORA, DDIM, GUIDANCE = "2503.11240", "2305.13301", "2106.09685", "2010.02502", "2207.12598"
CLIPSCORE, BERTSCORE, PICKSCORE = "2104.08718", "1904.09675", "2305.01569"


def arxiv_of(name: str, **changes: object) -> set[str]:
    return {paper.arxiv for paper in papers_of(replace(recipe(name), **changes))}  # pyright: ignore[reportArgumentType]


def test_the_works_are_those_of_the_run_and_no_others() -> None:
    common = {DDPO, LORA, DDIM}
    assert arxiv_of("emoji-quickstart") == common | {B2, CLIPSCORE}
    assert arxiv_of("emoji-ddpo") == common | {CLIPSCORE}
    assert arxiv_of("emoji-policy-gradient") == common | {B2, CLIPSCORE}
    assert arxiv_of("emoji-dpok") == common | {B2, CLIPSCORE, "2305.16381"}
    assert arxiv_of("emoji-dpo") == common | {B2, CLIPSCORE, "2305.18290", "2311.13231"}
    assert arxiv_of("paper-template1-bert") == common | {B2, GUIDANCE, BERTSCORE}
    assert arxiv_of("sdxl-clip", reward="pickscore + 0.5*jpeg-size:compressible") == common | {B2, GUIDANCE, PICKSCORE}
    assert arxiv_of("emoji-ddpo", reward="mine.py:f") == common


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_card_that_the_hub_can_read(name: str) -> None:
    text = model_card(recipe(name), {})
    told = ModelCard(text).data.to_dict()
    assert told["library_name"] == "diffusers"
    assert told.get("base_model") == (None if name.startswith("emoji") else recipe(name).model)
    assert text.count("@article{") == len(papers_of(recipe(name)))
    assert "Before and after" not in text
    assert "](reward.png)" in text
    assert "under the licence of that model" in text


def test_numbers_and_the_sampler_are_told() -> None:
    evaluation = {"before": {"clip_score": 0.25, "new": 1.0}, "after": {"clip_score": 0.31}, "num_images": 360}
    text = model_card(recipe("paper-template1-clip"), evaluation)
    assert "| clip_score | 0.2500 | 0.3100 |" in text
    assert "| new |" not in text
    assert "360 pictures" in text
    assert 'pipe("a prompt", num_inference_steps=20, guidance_scale=5.0, eta=1.0)' in text


def test_no_folder_and_no_address_of_the_machine_is_told() -> None:
    run = replace(
        recipe("paper-template1-clip"),
        model="/home/me/model",
        reward="clip:/home/me/clip - 0.5*/home/me/mine.py:f + remote:http://10.0.0.1:8000 + my.module:g",
        prompts="/home/me/prompts.txt",
    )
    text = model_card(run, {})
    assert "/home" not in text
    assert "10.0.0.1" not in text
    assert "`clip:clip - 0.5*mine.py:f + remote + my.module:g`" in text
    assert "`prompts.txt`" in text


def test_the_curve_is_drawn_even_of_a_single_small_round(tmp_path: Path) -> None:
    metrics_file = tmp_path / "metrics.jsonl"
    metrics_file.write_text('{"reward_queries": 8, "reward/mean": 0.5}\n', encoding="utf-8")
    write_card(tmp_path, recipe("emoji-quickstart"), evaluation={}, metrics_file=metrics_file)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == model_card(recipe("emoji-quickstart"), {})
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")
