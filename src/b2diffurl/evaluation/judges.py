"""Judges: what evaluates a policy's images. One place chooses the judge, from the model, the prompts and the reward.

The setting `judge` is one of

    auto          an embedded model on its own prompts: the scene oracle and the embedded CLIP of its world; any other:
                  the CLIP of the reward, if the reward is or contains a CLIPScore; otherwise none
    none          no evaluation
    reward        the mean of the run's own reward
    clip          CLIPScore and Inception Score of the paper's ViT-H-14 (a download of 3.7 GiB)
    clip:MODEL    the same of another `CLIPModel`: an embedded one such as "emoji", a directory or a hub id

Where the reward is or contains a BERTScore, the judges with a CLIP also report `bert_score`.

Shapes: B images of 3 x H x W in [0, 1].
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.emoji.oracle import load_oracle
from b2diffurl.emoji.world import World
from b2diffurl.emoji.worlds import WORLDS
from b2diffurl.errors import UserError
from b2diffurl.evaluation.observations import Observations, group_by_prompt
from b2diffurl.rewards import WeightedSum, parse_reward, score_images
from b2diffurl.rewards.clip import VIT_H_14, CLIPScore
from b2diffurl.rewards.interface import Reward

BERT_SCORE = "bert_score"
_SETTING = re.compile(r"auto|none|reward|clip|clip:\S+")
NO_JUDGE_NOTE = (
    "No evaluation: no judge fits this model, its prompts and its reward; "
    'set judge to "reward" or "clip:MODEL" to have one.'
)


class Judge(ABC):
    """Observes images, and computes metrics from the observations; higher alignment and diversity are better.

    Attributes:
        metrics: names of the metrics.
    """

    metrics: tuple[str, ...]

    @abstractmethod
    def observe(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Observations:
        """Observe B images, one prompt per image; the observations give every metric."""

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> dict[str, float]:
        """Compute all metrics of B images, one prompt per image."""
        observed = self.observe(images, prompts)
        return {name: observed.metric(name) for name in self.metrics}


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeChoice:
    """The judge that fits a run, before its models are loaded.

    Attributes:
        kind: "emoji", "clip", "reward" or "none".
        clip: the CLIP model of the kinds "emoji" and "clip", as in the reward "clip:MODEL"; "" otherwise.
        world: the world of the kind "emoji", by the name of its model; "" otherwise.
        bert: the reward's BERTScore by name, which the kinds "emoji" and "clip" report too; "" otherwise.
    """

    kind: Literal["emoji", "clip", "reward", "none"]
    clip: str = ""
    world: str = ""
    bert: str = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of this judge."""
        own = {
            "emoji": EmojiJudge.metrics, "clip": CLIPJudge.metrics, "reward": RewardJudge.metrics, "none": (),
        }[self.kind]  # fmt: skip
        return (BERT_SCORE, *own) if self.bert else own


def check_judge(judge: str) -> None:
    """Check the form of the setting.

    Raises:
        UserError: the setting is not one of the five forms.
    """
    if not _SETTING.fullmatch(judge):
        raise UserError(f"judge is {judge!r}; give auto, none, reward, clip or clip:MODEL.")


def choose_judge(judge: str, *, model: str, prompts: Sequence[str], reward: str) -> JudgeChoice:
    """Choose the judge of a run; nothing is loaded.

    Args:
        judge: the setting; see the module.
        model: the run's model.
        prompts: all prompts that will be evaluated, held-out ones included.
        reward: the run's reward by name; "" where a reward is given from Python.

    Raises:
        UserError: the setting is not one of the five forms.
    """
    check_judge(judge)
    terms = parse_reward(reward) if reward else ()
    bert = next((term.name for term in terms if term.kind == "bert"), "")
    if judge == "auto":
        if model in WORLDS and WORLDS[model].knows(prompts):
            return JudgeChoice(kind="emoji", clip=f"clip:{model}", world=model, bert=bert)
        clips = [term.name for term in terms if term.kind == "clip"]
        return JudgeChoice(kind="clip", clip=clips[0], bert=bert) if clips else JudgeChoice(kind="none")
    if judge == "none":
        return JudgeChoice(kind="none")
    if judge == "reward":
        return JudgeChoice(kind="reward")
    return JudgeChoice(kind="clip", clip=judge, bert=bert)


def load_judge(
    choice: JudgeChoice,
    *,
    reward: Reward | None = None,
    others: Sequence[Reward] = (),
    device: torch.device | str = "cpu",
) -> Judge:
    """Load a judge.

    Args:
        choice: any but "none".
        reward: the run's loaded reward; if it is or contains the same CLIP, that one is used and not loaded twice. The
            kind "reward" and a BERTScore need it.
        others: other loaded rewards, whose CLIP is used likewise.
        device: device of the models.
    """
    assert choice.kind != "none"
    if choice.kind == "reward":
        assert reward is not None
        return RewardJudge(reward)
    shared = [clip for loaded in (reward, *others) if (clip := _clip_of(loaded, choice.clip))]
    clip = shared[0] if shared else _load_clip(choice.clip, device)
    judge = EmojiJudge(clip, WORLDS[choice.world]) if choice.kind == "emoji" else CLIPJudge(clip)
    if not choice.bert:
        return judge
    assert reward is not None
    return WithBERTScore(judge, reward.rewards[choice.bert] if isinstance(reward, WeightedSum) else reward)


def _clip_of(reward: Reward | None, name: str) -> CLIPScore | None:
    parts = reward.rewards.values() if isinstance(reward, WeightedSum) else (reward,)
    return next((part for part in parts if isinstance(part, CLIPScore) and part.name == _full_name(name)), None)


def _load_clip(name: str, device: torch.device | str) -> CLIPScore:
    return CLIPScore(_full_name(name).removeprefix("clip:"), device=device)


def _full_name(name: str) -> str:
    return f"clip:{VIT_H_14}" if name == "clip" else name


class EmojiJudge(Judge):
    """The scene oracle, which is never a reward, and the embedded CLIP; Inception Score on the oracle's features.

    Args:
        clip: gives clip_score.
        world: the world of the images.
    """

    metrics = ("clip_score", "scene_accuracy", "style_entropy", "inception_score")

    def __init__(self, clip: CLIPScore, world: World) -> None:
        self._clip = clip
        self._oracle = load_oracle(world)

    def observe(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Observations:
        """Observe CLIPScore, whether the scene is right, the most likely style, and the oracle's features."""
        verdict = self._oracle.judge(images)
        return Observations(
            groups=group_by_prompt(prompts),
            scores={
                "clip_score": self._clip(images, prompts),
                "scene_accuracy": self._oracle.scene_is_right(verdict, prompts).float(),
            },
            labels={"style_entropy": verdict.style.argmax(-1)},
            features=verdict.features,
        )


class CLIPJudge(Judge):
    """CLIPScore, and Inception Score on the unnormalized CLIP image embedding as in the paper's Table 1.

    Args:
        clip: gives both.
    """

    metrics = ("clip_score", "inception_score")

    def __init__(self, clip: CLIPScore) -> None:
        self._clip = clip

    def observe(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Observations:
        """Observe CLIPScore and the embedding."""
        return Observations(
            groups=group_by_prompt(prompts),
            scores={"clip_score": self._clip(images, prompts)},
            features=self._clip.embed_images(images, unit=False).cpu(),
        )


class RewardJudge(Judge):
    """The mean of the run's own reward.

    Args:
        reward: any reward.
    """

    metrics = ("reward",)

    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    def observe(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Observations:
        """Observe the reward."""
        scored = score_images(self._reward, images, prompts, require_finite=False)
        return Observations(groups=group_by_prompt(prompts), scores={"reward": scored.scores})


class WithBERTScore(Judge):
    """Another judge, and the mean of the run's own BERTScore.

    Args:
        judge: the other judge.
        bert: the BERTScore reward, or the reward's term.
    """

    def __init__(self, judge: Judge, bert: Reward) -> None:
        self.metrics = (BERT_SCORE, *judge.metrics)
        self._judge = judge
        self._bert = bert

    def observe(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Observations:
        """Observe what the other judge does, and BERTScore."""
        observed = self._judge.observe(images, prompts)
        scored = score_images(self._bert, images, prompts, require_finite=False)
        return replace(observed, scores={**observed.scores, BERT_SCORE: scored.scores})
