"""Metrics of a set of images: pure functions of features and labels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


def inception_score(logits: Float[Tensor, "B D"]) -> float:
    """Compute exp of the mean KL(p(y|x) || p(y)), with p(y|x) = softmax(logits); 1 to D, higher is more diverse.

    One split over all images (arXiv 1606.03498). Table 1 of the paper uses the unnormalized CLIP ViT-H-14 image
    embeddings as logits, according to issue 11 of the authors' repository.

    >>> round(inception_score(torch.eye(4) * 100), 3)
    4.0
    >>> inception_score(torch.zeros(3, 4))
    1.0
    """
    log_p = logits.double().log_softmax(-1)
    log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return float(((log_p.exp() * (log_p - log_marginal)).sum(-1)).mean().exp())


def entropy(labels: Int[Tensor, " B"] | Sequence[int]) -> float:
    """Compute the entropy of the label frequencies in nats; 0 if all labels are equal.

    >>> round(entropy([0, 0, 1, 1]), 3)
    0.693
    """
    counts = torch.bincount(torch.as_tensor(labels)).double()
    fraction = counts[counts > 0] / counts.sum()
    return abs(float(-(fraction * fraction.log()).sum()))


def vendi_score(features: Float[Tensor, "B D"]) -> float:
    """Compute exp of the von Neumann entropy of K / B, K the cosines of all pairs of images (arXiv 2210.02410).

    The effective number of different images: 1 if all are alike, B if all are orthogonal, at most D. It grows with B,
    so only sets of equal size are comparable.

    >>> round(vendi_score(torch.eye(4)), 3), round(vendi_score(torch.ones(5, 2)), 3)
    (4.0, 1.0)
    """
    unit = _unit(features)
    # X X^T (B x B) and X^T X (D x D) share their eigenvalues other than 0; the smaller one is cheaper.
    gram = unit.T @ unit if len(unit) > unit.shape[1] else unit @ unit.T
    eigenvalues = np.linalg.eigvalsh((gram / len(unit)).numpy())
    positive = eigenvalues[eigenvalues > 0]  # rounding makes some of the zeros negative
    return float(np.exp(-(positive * np.log(positive)).sum()))


def pairwise_distances(features: Float[Tensor, "B D"], groups: Int[Tensor, " B"]) -> Float64[Tensor, " G"]:
    """Compute 1 - cosine, averaged over the pairs of different images of each group; NaN for a group of one image.

    Args:
        features: one vector per image.
        groups: number of each image's group, from 0; such as that of its prompt.
    """
    unit, num_groups = _unit(features), int(groups.max()) + 1
    size = torch.bincount(groups, minlength=num_groups).double()
    total = torch.zeros(num_groups, unit.shape[1], dtype=torch.float64).index_add(0, groups, unit)
    own = torch.zeros(num_groups, dtype=torch.float64).index_add(0, groups, unit.square().sum(-1))
    # |sum of the vectors|^2 is the sum of the cosines of all pairs, those of an image with itself included.
    return 1 - (total.square().sum(-1) - own) / (size * (size - 1))


def mean_pairwise_distance(features: Float[Tensor, "B D"], groups: Int[Tensor, " B"]) -> float:
    """Average `pairwise_distances` over the groups of two or more images, each with equal weight; 0 to 2.

    The diversity within prompts, where `vendi_score` and `inception_score` also count the variety of the prompts.

    >>> mean_pairwise_distance(torch.eye(3), torch.tensor([0, 0, 0]))
    1.0
    >>> round(mean_pairwise_distance(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])), 3)
    0.0
    """
    return float(pairwise_distances(features, groups).nanmean())


def _unit(features: Float[Tensor, "B D"]) -> Float64[Tensor, "B D"]:
    return torch.nn.functional.normalize(features.double().cpu(), dim=-1)
