"""One place chooses the judge, from the model, the prompts and the reward."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from b2diffurl.emoji.oracle import load_oracle
from b2diffurl.emoji.worlds import WORLDS
from b2diffurl.errors import UserError
from b2diffurl.evaluation.judges import CLIPJudge, EmojiJudge, RewardJudge, choose_judge, load_judge
from b2diffurl.rewards import load_reward, score_images

SCENES = ("a bear riding a bike", "a cat playing chess")
OBJECTS = ("red apple", "dog on boat")
OTHERS = ("a bear riding a bike", "a unicorn")


@pytest.mark.parametrize(
    ("judge", "model", "prompts", "reward", "kind", "clip"),
    [
        ("auto", "emoji", SCENES, "jpeg-size:compressible", "emoji", "clip:emoji"),
        ("auto", "emoji", SCENES, "", "emoji", "clip:emoji"),
        ("auto", "emoji", OTHERS, "clip:emoji", "clip", "clip:emoji"),
        ("auto", "emoji", OTHERS, "jpeg-size:compressible", "none", ""),
        ("auto", "emoji-objects", OBJECTS, "jpeg-size:compressible", "emoji", "clip:emoji-objects"),
        ("auto", "emoji-objects", SCENES, "clip:emoji-objects", "clip", "clip:emoji-objects"),
        ("auto", "emoji-objects", (*OBJECTS, *SCENES), "", "none", ""),
        ("auto", "emoji", OBJECTS, "clip:emoji", "clip", "clip:emoji"),
        ("auto", "me/my-sd", SCENES, "clip", "clip", "clip"),
        ("auto", "me/my-sd", SCENES, "0.5*jpeg-size:compressible + clip:my/clip", "clip", "clip:my/clip"),
        ("auto", "me/my-sd", SCENES, "pickscore", "none", ""),
        ("auto", "me/my-sd", SCENES, "my_rewards.py:f", "none", ""),
        ("auto", "me/my-sd", SCENES, "", "none", ""),
        ("none", "emoji", SCENES, "clip:emoji", "none", ""),
        ("reward", "emoji", SCENES, "clip:emoji", "reward", ""),
        ("clip", "emoji", SCENES, "clip:emoji", "clip", "clip"),
        ("clip:my/clip", "emoji", SCENES, "clip:emoji", "clip", "clip:my/clip"),
    ],
)
def test_the_judge_that_fits(judge: str, model: str, prompts: Sequence[str], reward: str, kind: str, clip: str) -> None:
    choice = choose_judge(judge, model=model, prompts=prompts, reward=reward)
    assert (choice.kind, choice.clip) == (kind, clip)
    assert choice.world == (model if kind == "emoji" else "")


@pytest.mark.parametrize("judge", ["", "oracle", "clip:", "Auto", "clip: x"])
def test_another_judge_is_refused(judge: str) -> None:
    with pytest.raises(UserError, match=r"^judge is .*; give auto, none, reward, clip or clip:MODEL"):
        choose_judge(judge, model="emoji", prompts=SCENES, reward="clip:emoji")


@pytest.mark.parametrize("reward", ["clip:emoji", "clip:emoji - 0.1*jpeg-size:compressible"])
def test_the_rewards_own_clip_is_not_loaded_twice(reward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_reward(reward)
    monkeypatch.setattr("transformers.CLIPModel", None)
    for prompts, kind in ((SCENES, EmojiJudge), (OTHERS, CLIPJudge)):
        choice = choose_judge("auto", model="emoji", prompts=prompts, reward=reward)
        judge = load_judge(choice, reward=loaded)
        assert isinstance(judge, kind)
        found = judge(torch.rand(2, 3, 32, 32), SCENES)
        assert tuple(found) == judge.metrics == choice.metrics


@pytest.mark.parametrize(("model", "prompts"), [("emoji", SCENES), ("emoji-objects", OBJECTS)])
def test_the_judge_of_a_world_has_its_oracle_and_its_clip(model: str, prompts: tuple[str, ...]) -> None:
    judge = load_judge(choose_judge("auto", model=model, prompts=prompts, reward=""))
    images = torch.rand(2, 3, 32, 32)
    observed = judge.observe(images, prompts)
    assert judge.metrics == ("clip_score", "scene_accuracy", "style_entropy", "inception_score")
    torch.testing.assert_close(observed.scores["clip_score"], load_reward(f"clip:{model}")(images, prompts))
    verdict = load_oracle(WORLDS[model]).judge(images)
    torch.testing.assert_close(observed.features, verdict.features)


@pytest.mark.parametrize("reward", ["bert:emoji", "2*clip:emoji + 0.5*bert:emoji"])
@pytest.mark.parametrize(("setting", "kind"), [("auto", "emoji"), ("clip:emoji", "clip")])
def test_the_rewards_bertscore_is_reported_too(setting: str, kind: str, reward: str) -> None:
    choice = choose_judge(setting, model="emoji", prompts=SCENES, reward=reward)
    assert (choice.kind, choice.bert) == (kind, "bert:emoji")
    judge = load_judge(choice, reward=load_reward(reward))
    assert judge.metrics == choice.metrics
    assert judge.metrics[0] == "bert_score"
    images = torch.rand(2, 3, 32, 32)
    expected = score_images(load_reward("bert:emoji"), images, SCENES).scores
    torch.testing.assert_close(judge.observe(images, SCENES).scores["bert_score"], expected)
    assert judge(images, SCENES).keys() == set(judge.metrics)


@pytest.mark.parametrize("judge", ["reward", "none"])
def test_bertscore_is_no_metric_of_other_judges(judge: str) -> None:
    assert "bert_score" not in choose_judge(judge, model="emoji", prompts=SCENES, reward="bert:emoji").metrics


def test_the_reward_as_its_own_judge() -> None:
    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prompts) == len(images)
        return images.mean(dim=(1, 2, 3))

    judge = load_judge(choose_judge("reward", model="emoji", prompts=SCENES, reward=""), reward=brightness)
    assert isinstance(judge, RewardJudge)
    assert judge(torch.full((2, 3, 4, 4), 0.25), SCENES) == {"reward": 0.25}


def test_large_images_of_the_emoji_prompts_are_not_the_oracles(tmp_path: Path) -> None:
    """The paper's recipes on template 1 once asked for scene_accuracy of Stable Diffusion's images."""
    choice = choose_judge("auto", model=str(tmp_path), prompts=SCENES, reward="clip:emoji")
    judge = load_judge(choice, reward=load_reward("clip:emoji"))
    assert judge(torch.rand(2, 3, 64, 64), SCENES).keys() == {"clip_score", "inception_score"}
