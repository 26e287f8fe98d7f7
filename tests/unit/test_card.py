"""The model card: metadata for the hub, citations, usage, and no path or address of this host."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from b2diffurl.reporting.citations import _CITATIONS, citations_of
from b2diffurl.reporting.model_card import model_card, write_card
from b2diffurl.rewards import parse_reward
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.records import Evaluation

B2, DDPO, LORA, DDIM, GUIDANCE = "2503.11240", "2305.13301", "2106.09685", "2010.02502", "2207.12598"
CLIPSCORE, BERTSCORE, PICKSCORE = "2104.08718", "1904.09675", "2305.01569"


def arxiv_of(name: str, **changes: object) -> set[str]:
    return {citation.arxiv for citation in citations_of(replace(recipe(name), **changes))}  # pyright: ignore[reportArgumentType]


def test_only_the_publications_that_the_run_uses_are_cited() -> None:
    common = {DDPO, LORA, DDIM}
    assert arxiv_of("emoji-quickstart") == common | {B2, CLIPSCORE}
    assert arxiv_of("emoji-ddpo") == common | {CLIPSCORE}
    assert arxiv_of("emoji-policy-gradient") == common | {B2, CLIPSCORE}
    assert arxiv_of("emoji-dpok") == common | {B2, CLIPSCORE, "2305.16381"}
    assert arxiv_of("emoji-dpo") == common | {B2, CLIPSCORE, "2305.18290", "2311.13231"}
    assert arxiv_of("paper-template1-bert") == common | {B2, GUIDANCE, BERTSCORE}
    assert arxiv_of("sdxl", reward="pickscore + 0.5*jpeg-size:compressible") == common | {B2, GUIDANCE, PICKSCORE}
    assert arxiv_of("emoji-ddpo", reward="mine.py:f") == common


@pytest.mark.parametrize("name", RECIPES)
def test_the_hub_can_parse_the_card_of_every_recipe(name: str) -> None:
    run = recipe(name)
    text = model_card(replace(run, reward=run.reward or "clip", prompts=run.prompts or "template1-train"))
    metadata = ModelCard(text).data.to_dict()
    assert metadata["library_name"] == "diffusers"
    assert metadata.get("base_model") == (None if name.startswith("emoji") else recipe(name).model)
    assert text.count("@article{") == len(citations_of(recipe(name)))
    assert "Before and after" not in text
    assert "](reward.png)" in text
    assert "by the license of that model" in text


def test_the_card_has_scores_and_sampler_settings() -> None:
    evaluation = Evaluation(before={"clip_score": 0.25, "new": 1.0}, after={"clip_score": 0.31}, num_images=360)
    text = model_card(recipe("paper-template1-clip"), evaluation)
    assert "| clip_score | 0.2500 | 0.3100 |" in text
    assert "| new |" not in text
    assert "360 images" in text
    assert 'pipe("a prompt", num_inference_steps=20, guidance_scale=5.0, eta=1.0)' in text


def test_the_card_contains_no_path_and_no_address_of_this_host() -> None:
    run = replace(
        recipe("paper-template1-clip"),
        model="/home/me/model",
        reward="clip:/home/me/clip - 0.5*/home/me/mine.py:f + remote:http://10.0.0.1:8000 + my.module:g",
        prompts="/home/me/prompts.txt",
    )
    text = model_card(run)
    assert "/home" not in text
    assert "10.0.0.1" not in text
    assert "`clip:clip - 0.5*mine.py:f + remote + my.module:g`" in text
    assert "`prompts.txt`" in text


def test_a_single_small_round_gives_a_reward_curve(tmp_path: Path) -> None:
    rounds = [{"reward_queries": 8, "reward/mean": 0.5}]
    write_card(tmp_path, recipe("emoji-quickstart"), evaluation=None, rounds=rounds)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == model_card(recipe("emoji-quickstart"))
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")


def test_every_citation_has_an_entry_and_a_component_that_exists() -> None:
    """A misspelled component would never be cited."""
    objectives = {f"objective:{recipe(name).objective.use}" for name in RECIPES}
    rewards = {f"reward:{term.kind}" for term in parse_reward("clip + pickscore + bert")}
    for citation in _CITATIONS:
        assert citation.component in {"method", "always", "guidance"} | objectives | rewards
        assert citation.bibtex.startswith(f"@article{{{citation.key},")
        assert citation.arxiv
