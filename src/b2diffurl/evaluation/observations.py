"""What a judge observes on each image; every metric is computed from it, so that prompts can be resampled.

Shapes: B images, D features.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from b2diffurl.evaluation.metrics import (
    entropy,
    inception_score,
    mean_pairwise_distance,
    pairwise_distances,
    vendi_score,
)

INCEPTION_SCORE, VENDI_SCORE, PAIRWISE_DISTANCE = "inception_score", "vendi_score", "pairwise_distance"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observations:
    """Observations of B images, on the CPU.

    Attributes:
        groups: number of each image's prompt, from 0.
        scores: metrics that are means over images: one number per image, by name.
        labels: metrics that are entropies of labels: one label per image, by name.
        features: one vector per image, for the Inception Score (as logits), Vendi score and pairwise distance; None if
            there are none.
    """

    groups: Int[Tensor, " B"]
    scores: Mapping[str, Float[Tensor, " B"]]
    labels: Mapping[str, Int[Tensor, " B"]] = field(default_factory=dict[str, Tensor])
    features: Float[Tensor, "B D"] | None = None

    def metric(self, name: str) -> float:
        """Compute a metric: one of `scores`, `labels`, or those of features."""
        if name in self.scores:
            return float(self.scores[name].mean())
        if name in self.labels:
            return entropy(self.labels[name])
        assert self.features is not None, name
        if name == PAIRWISE_DISTANCE:
            return mean_pairwise_distance(self.features, self.groups)
        return {INCEPTION_SCORE: inception_score, VENDI_SCORE: vendi_score}[name](self.features)

    def by_prompt(self, name: str) -> list[float] | None:
        """Compute a metric of each prompt; None for metrics that are not averages over prompts or images."""
        if name in self.scores:
            size = torch.bincount(self.groups).double()
            total = torch.zeros(len(size), dtype=torch.float64).index_add(0, self.groups, self.scores[name].double())
            return [float(value) for value in total / size]
        if name == PAIRWISE_DISTANCE and self.features is not None:
            return [float(value) for value in pairwise_distances(self.features, self.groups)]
        return None

    def resampled(self, resamples: Iterable[Sequence[int]]) -> "Iterator[Observations]":
        """Give the observations of each resample: of some prompts, each with all its images.

        Args:
            resamples: numbers of prompts; one that is there twice counts as two prompts.
        """
        rows = [(self.groups == prompt).nonzero().flatten() for prompt in range(int(self.groups.max()) + 1)]
        for prompts in resamples:
            chosen = [rows[prompt] for prompt in prompts]
            index = torch.cat(chosen)
            yield replace(
                self,
                groups=torch.arange(len(chosen)).repeat_interleave(torch.tensor([len(images) for images in chosen])),
                scores={name: values[index] for name, values in self.scores.items()},
                labels={name: values[index] for name, values in self.labels.items()},
                features=None if self.features is None else self.features[index],
            )


def group_by_prompt(prompts: Sequence[str]) -> Int[Tensor, " B"]:
    """Number the prompts in order of appearance.

    >>> group_by_prompt(["a cat", "a dog", "a cat"]).tolist()
    [0, 1, 0]
    """
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return torch.tensor([numbers[prompt] for prompt in prompts])
