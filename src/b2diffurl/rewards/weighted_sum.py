"""Several rewards as one: the weighted sum, with every part at hand to be logged."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.rewards.custom import Metadata, call
from b2diffurl.rewards.interface import Reward
from b2diffurl.rewards.spec import Term


class WeightedSum:
    """The sum over parts of weight times score, in float64.

    Args:
        terms: weight and name of each part.
        rewards: the parts, in the same order.

    Attributes:
        rewards: the parts by name.
    """

    def __init__(self, terms: Sequence[Term], rewards: Sequence[Reward]) -> None:
        self.terms = tuple(terms)
        self.rewards = {term.name: reward for term, reward in zip(terms, rewards, strict=True)}
        assert len(self.rewards) == len(self.terms) > 0

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Metadata | None = None
    ) -> Float[Tensor, " B"]:
        """Weighted sum of each picture.

        Raises:
            UserError: as `parts`.
        """
        return self.total(self.parts(images, prompts, metadata))

    def parts(
        self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str], metadata: Metadata | None = None
    ) -> dict[str, Float[Tensor, " B"]]:
        """Scores of every part, without its weight, by its name; float64.

        Raises:
            UserError: a part gives another shape than one number a picture, which a sum would hide.
        """
        found: dict[str, Tensor] = {}
        for name, reward in self.rewards.items():
            scores = call(reward, images, prompts, metadata=metadata, name=name)
            if tuple(scores.shape) != (len(images),):
                raise UserError(
                    f"reward {name} gave shape {tuple(scores.shape)} for {len(images)} pictures; "
                    f"return one number a picture, shape ({len(images)},)."
                )
            found[name] = scores.double()
        return found

    def total(self, parts: dict[str, Float[Tensor, " B"]]) -> Float[Tensor, " B"]:
        """Weighted sum of what `parts` gave."""
        return torch.stack([term.weight * parts[term.name] for term in self.terms]).sum(0)


def score_parts(
    reward: Callable[..., Any],
    images: Float[Tensor, "B 3 H W"],
    prompts: Sequence[str],
    metadata: Metadata | None = None,
) -> tuple[Tensor, dict[str, Float[Tensor, " B"]]]:
    """Score pictures by any reward: one of ours, a sum, or a function from Python, async or not.

    Returns:
        The scores, on the CPU, as the reward gave them; and of a sum every part's, unweighted, by its name.
    """
    if isinstance(reward, WeightedSum):
        parts = reward.parts(images, prompts, metadata)
        return reward.total(parts), parts
    return call(reward, images, prompts, metadata=metadata), {}
