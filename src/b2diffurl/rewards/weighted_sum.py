"""Score images with any reward; the weighted sum of several rewards.

Shapes: B images of 3 x H x W in [0, 1].
"""

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from b2diffurl.rewards.custom import call_reward, name_of
from b2diffurl.rewards.interface import Metadata, Reward
from b2diffurl.rewards.scores import Info, ScoredImages, check_scores, prefix_info, split_output, to_info, to_tensor
from b2diffurl.rewards.spec import Term


class WeightedSum:
    """The sum over terms of weight times score, in float64.

    Args:
        terms: weight and name of each term.
        rewards: the rewards, in the same order.

    Attributes:
        terms: weight and name of each term.
        rewards: the rewards by name.
    """

    def __init__(self, terms: Sequence[Term], rewards: Sequence[Reward]) -> None:
        self.terms = tuple(terms)
        self.rewards = {term.name: reward for term, reward in zip(terms, rewards, strict=True)}
        assert len(self.rewards) == len(self.terms) > 0

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Metadata | None = None
    ) -> tuple[Float64[Tensor, " B"], Info]:
        """Compute the weighted sum for each image; `score_images` returns the terms too.

        Raises:
            InvalidScoresError: a term did not return one number per image, which broadcasting would hide.
        """
        scored = self.score(images, prompts, metadata)
        return scored.scores, scored.info

    def score(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Metadata | None = None
    ) -> ScoredImages:
        """Compute the weighted sum and its terms.

        Raises:
            InvalidScoresError: a term did not return one number per image, which broadcasting would hide.
        """
        scored = {
            name: score_images(reward, images, prompts, metadata, name=name, require_finite=False)
            for name, reward in self.rewards.items()
        }
        terms = {name: term.scores for name, term in scored.items()}
        info: Info = {}
        for name, term in scored.items():
            info |= prefix_info(term.info, name)
        total = torch.stack([term.weight * terms[term.name] for term in self.terms]).sum(0)
        return ScoredImages(scores=total, terms=terms, info=info)


def score_images(
    reward: Callable[..., Any],
    images: Float[Tensor, "B 3 H W"],
    prompts: Sequence[str],
    metadata: Metadata | None = None,
    *,
    name: str = "",
    first_image: int = 0,
    require_finite: bool = True,
) -> ScoredImages:
    """Score images with any reward: a built-in one, a weighted sum, or a function from Python, async or not.

    The reward gets copies, so that what it writes into them reaches neither other rewards nor its own next attempt.

    Args:
        reward: called with (images, prompts), and with `metadata=` if it has that parameter.
        images: in [0, 1].
        prompts: one per image.
        metadata: one mapping per image; empty mappings by default.
        name: the reward's name in messages; by default taken from the reward.
        first_image: index of the first image in messages.
        require_finite: raise if a score is infinite or NaN.

    Raises:
        InvalidScoresError: the reward did not return one finite number per image.
        Exception: whatever the reward raises.
    """
    name = name or reward_name(reward)
    if isinstance(reward, WeightedSum):
        scored = reward.score(images, prompts, metadata)
        check_scores(scored.scores, len(images), name=name, first_image=first_image, require_finite=require_finite)
        return scored
    output, info = split_output(call_reward(reward, images.clone(), copy(prompts), metadata=deepcopy(metadata)))
    scores = check_scores(
        to_tensor(output, name=name), len(images), name=name, first_image=first_image, require_finite=require_finite
    )
    return ScoredImages(scores=scores, info=to_info(info, len(images)))


def reward_name(reward: Callable[..., Any]) -> str:
    """Return the name of a reward for messages, as it is written in `--reward` where possible."""
    if isinstance(reward, WeightedSum):
        return " + ".join(f"{term.weight:g}*{term.name}" for term in reward.terms)
    name = getattr(reward, "name", None)
    return name if isinstance(name, str) else name_of(reward)
