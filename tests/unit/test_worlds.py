"""The worlds of the embedded models: their prompts, their scenes, and the oracle that judges them."""

from collections import Counter

import numpy as np
import pytest
import torch

from b2diffurl import emoji
from b2diffurl.emoji.oracle import Verdict, load_oracle
from b2diffurl.emoji.world import STYLES, World
from b2diffurl.emoji.worlds import PREDICATES, WORLDS, world_of
from b2diffurl.prompts.lists import load_prompts
from tools.emoji_model import render
from tools.emoji_model.card import oracle_accuracy
from tools.emoji_model.scenes import Scene, SceneSource, any_scene, captioned_scene, render_scenes
from tools.emoji_model.sources import SOURCES

LISTS = {"emoji": ("template1",), "emoji-objects": ("emoji-template2", "emoji-template3")}
SPLITS = [(model, f"{name}-{split}") for model, names in LISTS.items() for name in names for split in ("train", "test")]

each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=lambda world: world.name)
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.world.name)
needs_font = pytest.mark.skipif(not render.FONT.is_file(), reason="needs fonts-noto-color-emoji")


def test_every_embedded_model_has_a_world_and_scenes() -> None:
    assert tuple(WORLDS) == tuple(SOURCES) == emoji.EMBEDDED


@pytest.mark.parametrize(("model", "name"), SPLITS)
def test_every_prompt_of_the_lists_is_parsed_by_its_world_only(model: str, name: str) -> None:
    prompts = load_prompts(name)
    assert [world.name for world in WORLDS.values() if world.knows(prompts)] == [model]
    assert world_of(prompts) is WORLDS[model]
    for prompt in prompts:
        content = WORLDS[model].parse(prompt)
        assert content is not None
        assert all(part in prompt for part in content if part and part not in PREDICATES), prompt


@pytest.mark.parametrize("template", [2, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_emoji_lists_are_the_papers_without_the_prompts_that_cannot_be_rendered(template: int, split: str) -> None:
    paper = load_prompts(f"template{template}-{split}")
    listed = load_prompts(f"emoji-template{template}-{split}")
    assert listed == tuple(prompt for prompt in paper if WORLDS["emoji-objects"].parse(prompt))
    assert len(listed) >= (24 if split == "train" else 10)


@pytest.mark.parametrize(
    ("prompt", "content"),
    [
        ("a bear riding a bike", ("bear", "riding a bike")),
        (" An  ANT playing chess\n", ("ant", "playing chess")),
        ("a red apple", None),
        ("a bear", None),
        ("orange orange", ("orange", "orange", None, None)),
        ("White Bell Pepper", ("bell pepper", "white", None, None)),
        ("dog on boat", ("dog", None, "on", "boat")),
        ("boat under dog", ("dog", None, "on", "boat")),
        ("dog under boat", ("boat", None, "on", "dog")),
        ("person on the right of bear", ("bear", None, "on the left of", "person")),
        ("motorcycle behind person", ("person", None, "in the front of", "motorcycle")),
        ("trash can in the front of cabinet", ("trash can", None, "in the front of", "cabinet")),
        ("red dog", None),
        ("apple on boat", None),
        ("", None),
    ],
)
def test_a_prompt_is_parsed_into_the_content_of_its_image(prompt: str, content: tuple[str | None, ...] | None) -> None:
    assert [parsed for world in WORLDS.values() if (parsed := world.parse(prompt))] == ([content] if content else [])
    assert (world_of([prompt]) is None) == (content is None)


def verdict_of(world: World, *contents: tuple[str | None, ...]) -> Verdict:
    classes = torch.tensor([world.classes(content) for content in contents])
    return Verdict(content=classes, style=torch.zeros(len(contents), 4), features=torch.zeros(len(contents), 128))


@pytest.mark.parametrize(
    ("model", "prompt", "shown", "is_right"),
    [
        ("emoji", "a bear riding a bike", ("bear", "riding a bike"), True),
        ("emoji", "a bear riding a bike", ("bear", None), False),
        ("emoji", "a bear riding a bike", ("fox", "riding a bike"), False),
        ("emoji-objects", "red apple", ("apple", "red", None, None), True),
        ("emoji-objects", "red apple", ("apple", "red", "on", "boat"), True),  # what a prompt does not mention
        ("emoji-objects", "red apple", ("apple", None, None, None), False),
        ("emoji-objects", "red apple", ("apple", "green", None, None), False),
        ("emoji-objects", "red apple", (None, "red", None, None), False),
        ("emoji-objects", "boat under dog", ("dog", None, "on", "boat"), True),
        ("emoji-objects", "boat under dog", ("boat", None, "on", "dog"), False),
        ("emoji-objects", "boat under dog", ("dog", None, "on", None), False),
        ("emoji-objects", "boat under dog", ("dog", None, "in the front of", "boat"), False),
    ],
)
def test_a_scene_is_right_if_every_part_that_the_prompt_mentions_matches(
    model: str, prompt: str, shown: tuple[str | None, ...], is_right: bool
) -> None:
    oracle = load_oracle(WORLDS[model])
    assert oracle.scene_is_right(verdict_of(oracle.world, shown), [prompt]).tolist() == [is_right]


@each_source
def test_captions_are_true_as_often_as_intended_and_true_ones_are_more_often_cartoons(source: SceneSource) -> None:
    rng = np.random.default_rng(0)
    pairs = [captioned_scene(source, rng) for _ in range(2000)]
    true = [(source.world.parse(caption) == scene.content, scene.style == "cartoon") for caption, scene in pairs]
    shares = Counter(true)
    assert shares[True, True] + shares[True, False] == pytest.approx(1100, abs=70)
    assert shares[True, True] / (shares[True, True] + shares[True, False]) == pytest.approx(0.46, abs=0.05)
    assert shares[False, True] / (shares[False, True] + shares[False, False]) == pytest.approx(0.16, abs=0.05)


@each_source
def test_clip_has_a_true_caption_of_every_image_and_hard_negatives(source: SceneSource) -> None:
    rng = np.random.default_rng(0)
    groups = [source.contrasting_contents(rng) for _ in range(400)]
    assert all(len(set(group)) >= 2 for group in groups)
    contents = [content for group in groups for content in group]
    captions = source.captions(contents, rng)
    assert set(contents) <= set(captions.values())
    for caption, content in captions.items():
        parsed = source.world.parse(caption)
        assert parsed == content or (parsed is None and None in content)


@each_source
@needs_font
def test_every_prompt_is_rendered_in_every_style(source: SceneSource) -> None:
    rng = np.random.default_rng(0)
    for prompt in source.prompts:
        images = [source.render(Scene(content=source.world.contents[prompt], style=style), rng) for style in STYLES]
        assert all(image.shape == (32, 32, 3) and image.std() > 5 for image in images), prompt
    scenes = [any_scene(source, rng, partial_fraction=1.0) for _ in range(50)]
    assert render_scenes(source, scenes, rng).isfinite().all()


@each_source
@needs_font
def test_the_packaged_oracle_classifies_new_renders(source: SceneSource) -> None:
    rng = np.random.default_rng(1)
    scenes = [any_scene(source, rng) for _ in range(250)]
    images = (render_scenes(source, scenes, rng) + 1) / 2
    accuracy = oracle_accuracy(load_oracle(source.world), scenes, images)
    assert all(value >= 0.95 for name, value in accuracy.items() if name != "scene"), accuracy


@each_world
def test_the_weights_of_a_world_are_complete(world: World) -> None:
    folder = emoji.weights_dir(world.name)
    assert "oracle on true renders" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for name in ("model/model_index.json", "clip/config.json", "oracle/oracle.safetensors"):
        assert (folder / name).is_file()
