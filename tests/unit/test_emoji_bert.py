"""The BERT reward of the embedded worlds: captions in their words, compared by their CLIP's text encoder."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from b2diffurl.emoji import EMBEDDED, captioner_dir, oracle_dir
from b2diffurl.emoji.captioner import WEIGHTS_FILE, SceneCaptioner, load_captioner
from b2diffurl.emoji.oracle import WEIGHTS_FILE as ORACLE_FILE
from b2diffurl.emoji.world import STYLES, Content
from b2diffurl.emoji.worlds import WORLDS, describe_objects
from b2diffurl.errors import UserError
from b2diffurl.prompts.lists import load_prompts
from b2diffurl.rewards import RewardSettings, check_reward, load_reward
from b2diffurl.rewards.bert.emoji import CLIPTextMatcher, EmojiBertReward
from b2diffurl.rewards.bert.settings import BertSettings
from b2diffurl.rewards.clip import CLIPScore
from tests.reference.bertscore import Token, bertscore
from tools.emoji_model import render
from tools.emoji_model.caption_scores import bert_scores, caption_accuracy
from tools.emoji_model.card import true_renders
from tools.emoji_model.judges import targets_of
from tools.emoji_model.scenes import Scene, render_scenes
from tools.emoji_model.sources import SOURCES

each_model = pytest.mark.parametrize("model", EMBEDDED)
needs_font = pytest.mark.skipif(not render.FONT.is_file(), reason="needs fonts-noto-color-emoji")


@cache
def clip_of(model: str) -> CLIPScore:
    return CLIPScore(model)


@cache
def reward_of(model: str) -> EmojiBertReward:
    return EmojiBertReward(load_captioner(WORLDS[model]), clip_of(model))


class Says(SceneCaptioner):
    """A captioner that sees given contents, whatever the images."""

    def __init__(self, model: str, *contents: Content) -> None:
        super().__init__(WORLDS[model])
        self.contents = contents

    def look(self, images: Tensor) -> list[Content]:
        assert len(images) == len(self.contents)
        return list(self.contents)


def scores_of(prompt: str, *contents: Content, model: str = "emoji") -> list[float]:
    """Scores for a prompt of images that show these contents."""
    reward = EmojiBertReward(Says(model, *contents), clip_of(model))
    return reward(torch.zeros(len(contents), 3, 32, 32), [prompt] * len(contents))[0].tolist()


# Captions


@each_model
def test_captions_are_prompts_of_the_same_content(model: str) -> None:
    world = WORLDS[model]
    for prompt, content in world.contents.items():
        captions = world.describe(content)
        assert prompt in captions
        assert {world.parse(caption) for caption in captions} == {content}


@pytest.mark.parametrize(
    ("model", "content", "captions"),
    [
        ("emoji", ("bear", "riding a bike"), ("a bear riding a bike",)),
        ("emoji", ("bear", None), ("a bear",)),
        ("emoji", (None, "riding a bike"), ("riding a bike",)),
        ("emoji", (None, None), ("",)),
        ("emoji-objects", ("apple", "red", None, None), ("red apple",)),
        ("emoji-objects", (None, "orange", None, None), ("orange color",)),
        ("emoji-objects", ("orange", None, None, None), ("orange",)),
        ("emoji-objects", ("dog", None, "on", "boat"), ("dog on boat", "boat under dog")),
        ("emoji-objects", ("dog", None, "on", None), ("dog",)),
        ("emoji-objects", ("dog", "red", "on", "boat"), ("red dog on boat", "boat under red dog")),
        ("emoji-objects", (None, None, None, None), ("",)),
    ],
)
def test_a_part_that_is_absent_is_left_out_of_the_caption(
    model: str, content: Content, captions: tuple[str, ...]
) -> None:
    assert WORLDS[model].describe(content) == captions


@needs_font
@each_model
def test_the_captioner_describes_new_scenes_complete_or_not(model: str) -> None:
    source, captioner = SOURCES[model], load_captioner(WORLDS[model])
    _, scenes, images = true_renders(source)
    contents, _ = targets_of(source.world, scenes)
    assert caption_accuracy(captioner, images, contents)["scene"] > 0.97
    first = source.prompts[0]
    partial = Scene(
        content=source.false_content(source.world.contents[first], np.random.default_rng(0)), style=STYLES[0]
    )
    (seen,) = captioner.look((render_scenes(source, [partial], np.random.default_rng(0)) + 1) / 2)
    assert seen == partial.content


@needs_font
def test_a_larger_image_has_the_caption_of_the_small_one() -> None:
    prompts, _, images = true_renders(SOURCES["emoji"])
    reward = reward_of("emoji")
    large = torch.nn.functional.interpolate(images[:64], scale_factor=4, mode="nearest")
    prompts = prompts[:64]
    assert reward(large, prompts)[1]["caption"] == reward(images[:64], prompts)[1]["caption"]


@each_model
def test_the_captioner_has_weights_of_its_own_in_half_precision(model: str) -> None:
    own = load_file(captioner_dir(model) / WEIGHTS_FILE)
    assert {value.dtype for value in own.values()} == {torch.float16}
    assert (captioner_dir(model) / WEIGHTS_FILE).stat().st_size < 520_000
    of_oracle = load_file(oracle_dir(model) / ORACLE_FILE)
    assert not [name for name, value in own.items() if any(value.equal(other) for other in of_oracle.values())]


# Scores


def embed_single(clip: CLIPScore, text: str) -> list[Token]:
    """Embeddings and first layer's outputs of one text's tokens, each of unit length; which are start and end."""
    inputs = clip.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        embedded, first, _ = clip.clip.text_model(**inputs, output_hidden_states=True).hidden_states
    ids = inputs["input_ids"][0].tolist()
    tokens: list[Token] = []
    for number, token in enumerate(ids):
        halves = embedded[0, number].double(), first[0, number].double()
        state = [value for half in halves for value in (half / half.square().sum().sqrt()).tolist()]
        tokens.append((state, token in (clip.tokenizer.bos_token_id, clip.tokenizer.eos_token_id)))
    return tokens


@each_model
def test_the_score_equals_the_reference_implementation(model: str) -> None:
    prompts = SOURCES[model].prompts[::9]
    captions = ["", *prompts[:-1]]
    match = CLIPTextMatcher(clip_of(model))(captions, prompts)
    expected = [
        bertscore(embed_single(clip_of(model), caption), embed_single(clip_of(model), prompt))
        for caption, prompt in zip(captions, prompts, strict=True)
    ]
    actual = torch.stack([match.precision, match.recall, match.f1], dim=1)
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=0)


@each_model
def test_a_right_caption_scores_1_and_an_empty_one_0(model: str) -> None:
    for prompt in SOURCES[model].prompts:
        content = WORLDS[model].contents[prompt]
        nothing: Content = (None,) * len(content)
        assert scores_of(prompt, content, nothing, model=model) == pytest.approx([1, 0], abs=1e-5)


def test_a_caption_with_more_of_the_prompt_scores_higher() -> None:
    for prompt in load_prompts("template1-train"):
        content = WORLDS["emoji"].parse(prompt)
        assert content is not None
        animal, activity = content
        other = "dog" if animal == "cat" else "cat"
        another = "playing chess" if activity == "riding a bike" else "riding a bike"
        right, *half, none = scores_of(
            prompt, content, (animal, another), (other, activity), (animal, None), (other, another)
        )
        assert none < min(half) < max(half) < right, prompt


@pytest.mark.parametrize("template", [2, 3])
def test_a_caption_with_more_of_the_prompt_scores_higher_in_most_prompts_of_the_other_templates(template: int) -> None:
    """A part right, of the parts of another prompt, against none right; the first word counts more than the second."""
    prompts = load_prompts(f"emoji-template{template}-train")
    ordered = []
    for prompt, other in zip(prompts, prompts[7:] + prompts[:7], strict=True):
        content, wrong = (WORLDS["emoji-objects"].contents[text] for text in (prompt, other))
        right, half, none = scores_of(prompt, content, (content[0], *wrong[1:]), wrong, model="emoji-objects")
        assert max(half, none) < right + 1e-6, prompt
        ordered.append(none <= half)
    assert sum(ordered) / len(ordered) > 0.8


def test_both_captions_of_a_relation_count_and_the_reversed_one_scores_less() -> None:
    for prompt, swapped in (("boat under dog", "dog under boat"), ("dog on boat", "boat on dog")):
        content, other = (WORLDS["emoji-objects"].contents[text] for text in (prompt, swapped))
        reward = EmojiBertReward(Says("emoji-objects", content, other), clip_of("emoji-objects"))
        scores, info = reward(torch.zeros(2, 3, 32, 32), [prompt, prompt])
        assert info["caption"][0] == prompt
        assert scores[0] == pytest.approx(1, abs=1e-5)
        assert scores[1] < 0.99
        assert info["caption"][1] in describe_objects(other)


def test_every_image_has_its_caption_precision_and_f1() -> None:
    contents: tuple[Content, ...] = (("cat", None), ("dog", "playing chess"), (None, None))
    reward = EmojiBertReward(Says("emoji", *contents), clip_of("emoji"))
    scores, info = reward(torch.zeros(3, 3, 32, 32), ["a cat playing chess"] * 3)
    assert info["caption"] == ["a cat", "a dog playing chess", ""]
    assert info["precision"][0] == pytest.approx(1, abs=1e-5)
    for score, precision, f1 in list(zip(scores.tolist(), info["precision"], info["f1"], strict=True))[:2]:
        assert f1 == pytest.approx(2 * precision * score / (precision + score), abs=1e-5)


# The names


@each_model
def test_the_reward_is_loaded_by_name(model: str) -> None:
    reward = load_reward(f"bert:{model}", device="cpu")
    assert isinstance(reward, EmojiBertReward)
    assert reward.captioner.world is WORLDS[model]


def test_settings_of_the_large_models_are_refused() -> None:
    settings = RewardSettings(bert=BertSettings(jpeg_quality=50))
    check_reward("bert", settings)
    with pytest.raises(UserError, match=r"'bert:emoji', on which the settings \[bert\] have no effect"):
        check_reward("bert:emoji", settings)


# The scores in the model card


def test_the_measured_scores_are_those_of_images_and_prompts() -> None:
    prompts = ["a cat riding a bike", "a dog riding a bike"] * 2
    contents: list[Content] = [("cat", "riding a bike"), ("dog", "riding a bike"), ("cat", None), (None, None)]
    reward = EmojiBertReward(Says("emoji", *contents), clip_of("emoji"))
    is_right = torch.tensor([1.0, 1.0, 0.0, 0.0])
    images = torch.zeros(4, 3, 32, 32)
    scores = reward(images, prompts)[0]
    numbers = bert_scores(reward, images, prompts, is_right=is_right, clip_scores=2 * scores - 1)
    assert numbers["bert_score"] == pytest.approx(float(scores.mean()))
    assert numbers["bert_score, oracle right"] == pytest.approx(1, abs=1e-5)
    assert numbers["bert_score, oracle wrong"] == pytest.approx(float(scores[2]) / 2, abs=1e-5)
    assert numbers["bert_score, another prompt"] < numbers["bert_score"]
    assert numbers["correlation with clip_score"] == pytest.approx(1, abs=1e-4)
    assert 0.9 < numbers["correlation with oracle within prompts"] <= 1
    targets = torch.tensor([reward.captioner.world.classes(content) for content in contents])
    targets[0, 0] += 1
    expected: Mapping[str, float] = {"scene": 0.75, "animal": 0.75, "activity": 1.0}
    assert caption_accuracy(reward.captioner, images, targets) == expected


def test_the_correlation_within_prompts_leaves_out_what_prompts_differ_in() -> None:
    prompts = ["a cat riding a bike", "a dog riding a bike"]
    reward = EmojiBertReward(Says("emoji", ("cat", None), ("dog", "riding a bike")), clip_of("emoji"))
    flags = torch.tensor([0.0, 1.0])
    numbers = bert_scores(reward, torch.zeros(2, 3, 32, 32), prompts, is_right=flags, clip_scores=flags)
    assert numbers["correlation with oracle"] == pytest.approx(1, abs=1e-4)
    assert not numbers["correlation with oracle within prompts"] > 0  # one image per prompt: nothing is left
