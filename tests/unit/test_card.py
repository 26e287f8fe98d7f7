"""The model card: metadata for the hub, citations, usage, and no path or address of this host."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

from b2diffurl.reporting.citations import _CITATIONS, citations_of
from b2diffurl.reporting.model_card import model_card, write_card
from b2diffurl.rewards import parse_reward
from b2diffurl.run.recipes import RECIPES, recipe
from b2diffurl.run.records import Evaluation, RunRecord

B2, DDPO, LORA, DDIM, GUIDANCE = "2503.11240", "2305.13301", "2106.09685", "2010.02502", "2207.12598"
CLIPSCORE, BERTSCORE, PICKSCORE = "2104.08718", "1904.09675", "2305.01569"


def arxiv_of(name: str, **changes: object) -> set[str]:
    return {citation.arxiv for citation in citations_of(replace(recipe(name), **changes))}  # pyright: ignore[reportArgumentType]


def test_only_the_publications_that_the_run_uses_are_cited() -> None:
    common = {DDPO, LORA, DDIM}
    assert arxiv_of("emoji-b2-paper") == common | {B2, CLIPSCORE}
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
    run = replace(run, reward=run.reward or "clip", prompts=run.prompts or "template1-train")
    text = model_card(run)
    metadata = ModelCard(text).data.to_dict()
    assert metadata["library_name"] == "diffusers"
    assert metadata.get("base_model") == (None if name.startswith("emoji") else recipe(name).model)
    assert text.count("@article{") == len(citations_of(run))
    assert "Before and after" not in text
    assert "](reward.png)" in text
    assert "by the license of that model" in text
    assert metadata.get("license") == ("ofl-1.1" if name.startswith("emoji") else None)
    assert ("add `license:`" in text) != name.startswith("emoji")
    assert {"text-to-image", "lora", "diffusers", "b2diffurl"} <= set(metadata["tags"])
    assert "b2diffurl_kohya.safetensors" in text


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


def record(images: dict[int, dict[int, Path]], **changes: object) -> RunRecord:
    """What a run of one small round leaves."""
    return replace(
        RunRecord(
            name="run", settings_text="", settings={}, environment={},
            rounds=({"reward_queries": 8, "reward/mean": 0.5},), evaluation=None,
            prompts=tuple(f"prompt {index}" for index in range(9)), images=images, stop=None,
        ),
        **changes,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def test_a_single_small_round_gives_a_reward_curve(tmp_path: Path) -> None:
    write_card(tmp_path, recipe("emoji-b2-paper"), record({}))
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == model_card(recipe("emoji-b2-paper"))
    assert (tmp_path / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "images").exists()


def test_the_metadata_round_trips_and_every_image_exists(tmp_path: Path) -> None:
    images: dict[int, dict[int, Path]] = {0: {}, 4: {}, 9: {}}
    for number, of_round in images.items():
        for index in range(9):
            of_round[index] = tmp_path / f"{number}_{index}.png"
            Image.new("RGB", (4, 4), (number, index, 0)).save(of_round[index])
    evaluation = Evaluation(
        before={"clip_score": 0.25, "broken": 0.1}, after={"clip_score": 0.5, "broken": float("nan")},
        num_images=8, prompts="/home/me/list.txt",
    )  # fmt: skip
    lora = tmp_path / "lora"
    lora.mkdir()
    write_card(lora, recipe("paper-template1-clip"), record(images, evaluation=evaluation))
    card = ModelCard.load(lora / "README.md")
    data = card.data
    assert isinstance(data, ModelCardData)
    assert ModelCard(f"---\n{data.to_yaml()}\n---\n").data.to_dict() == data.to_dict()
    assert data.base_model == recipe("paper-template1-clip").model
    assert data.eval_results is not None
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("clip_score", 0.5, "list.txt")
    urls = [entry["output"]["url"] for entry in data["widget"]]
    assert len(urls) == 12
    assert {str(path.relative_to(lora)) for path in (lora / "images").iterdir()} == set(urls)
    with Image.open(lora / urls[-2]) as before, Image.open(lora / urls[-1]) as after:
        assert (before.getpixel((0, 0)), after.getpixel((0, 0))) == ((0, 7, 0), (9, 7, 0))
    assert data["widget"][-1]["text"] == "prompt 7"
    assert "<Gallery />" in card.text


def test_without_images_from_before_training_there_are_no_pairs(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    lora = tmp_path / "lora"
    lora.mkdir()
    write_card(lora, recipe("emoji-b2-paper"), record({4: {0: tmp_path / "0.png"}, 9: {0: tmp_path / "0.png"}}))
    assert not (lora / "images").exists()


def test_every_citation_has_an_entry_and_a_component_that_exists() -> None:
    """A misspelled component would never be cited."""
    objectives = {f"objective:{recipe(name).objective.use}" for name in RECIPES}
    rewards = {f"reward:{term.kind}" for term in parse_reward("clip + pickscore + bert")}
    for citation in _CITATIONS:
        assert citation.component in {"method", "always", "guidance"} | objectives | rewards
        assert citation.bibtex.startswith(f"@article{{{citation.key},")
        assert citation.arxiv
