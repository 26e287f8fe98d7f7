"""Metrics of a set of images: pure functions of features and labels."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
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
