"""Scores of the captioner and of the BERT reward, for the model card.

Shapes: B images; P parts of a content.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.emoji.captioner import SceneCaptioner
from b2diffurl.evaluation.observations import group_by_prompt
from b2diffurl.rewards.bert.emoji import EmojiBertReward


def caption_accuracy(
    captioner: SceneCaptioner, images: Float[Tensor, "B 3 32 32"], contents: Int[Tensor, "B P"]
) -> dict[str, float]:
    """Return the fraction of images whose caption has every part right, absent ones included, and each part right.

    Args:
        captioner: the captioner.
        images: images in [0, 1].
        contents: class indices of what they show.
    """
    world = captioner.world
    right = torch.tensor([world.classes(content) for content in captioner.look(images)]) == contents
    parts = {part.name: float(right[:, index].float().mean()) for index, part in enumerate(world.parts)}
    return {"scene": float(right.all(dim=1).float().mean())} | parts


def bert_scores(
    reward: EmojiBertReward,
    images: Float[Tensor, "B 3 32 32"],
    prompts: Sequence[str],
    *,
    is_right: Float[Tensor, " B"],
    clip_scores: Float[Tensor, " B"],
) -> dict[str, float]:
    """Score images of a model with the BERT reward.

    Args:
        reward: the reward.
        images: images in [0, 1].
        prompts: the prompt of each image.
        is_right: 1 where the oracle sees what the prompt mentions, else 0.
        clip_scores: CLIPScore of each image.

    Returns:
        The mean score, with the image's own prompt, with another one, and where the oracle accepts and rejects the
        image; correlations of the score with the oracle and with CLIPScore, over all images and within prompts, after
        each prompt's means are subtracted.
    """
    scores, others = reward(images, prompts)[0], reward(images, _other_prompts(prompts))[0]
    within = [_minus_mean_of_prompt(values, prompts) for values in (scores, is_right, clip_scores)]
    return {
        "bert_score": float(scores.mean()),
        "bert_score, another prompt": float(others.mean()),
        "bert_score, oracle right": float(scores[is_right == 1].mean()),
        "bert_score, oracle wrong": float(scores[is_right == 0].mean()),
        "correlation with oracle": _correlation(scores, is_right),
        "correlation with clip_score": _correlation(scores, clip_scores),
        "correlation with oracle within prompts": _correlation(within[0], within[1]),
        "correlation with clip_score within prompts": _correlation(within[0], within[2]),
    }


def _other_prompts(prompts: Sequence[str]) -> list[str]:
    """Return for each image the prompt that is half a list away from its own."""
    unique = list(dict.fromkeys(prompts))
    other_of = {prompt: unique[(index + len(unique) // 2) % len(unique)] for index, prompt in enumerate(unique)}
    return [other_of[prompt] for prompt in prompts]


def _minus_mean_of_prompt(values: Float[Tensor, " B"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
    group = group_by_prompt(prompts)
    return values - (group.bincount(values) / group.bincount())[group]


def _correlation(a: Float[Tensor, " B"], b: Float[Tensor, " B"]) -> float:
    """Return Pearson's correlation; NaN where one of the two is constant."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
