"""Numbers about a set of pictures. Pure functions of features and labels."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def inception_score(logits: Float[Tensor, "B D"]) -> float:
    """Exp of the mean KL(p(y|x) || p(y)), p(y|x) the softmax of the logits; 1 to D, higher is more diverse.

    One split over all pictures (arXiv 1606.03498). The paper's Table 1 takes the unnormalised CLIP ViT-H-14 image
    embedding for logits, as its authors say in issue 11 of their repository.

    >>> round(inception_score(torch.eye(4) * 100), 3)
    4.0
    >>> inception_score(torch.zeros(3, 4))
    1.0
    """
    log_p = logits.double().log_softmax(-1)
    log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return float(((log_p.exp() * (log_p - log_marginal)).sum(-1)).mean().exp())


def entropy(labels: Int[Tensor, " B"] | Sequence[int]) -> float:
    """Entropy of how often each label occurs, in nats; 0 where all are alike.

    >>> round(entropy([0, 0, 1, 1]), 3)
    0.693
    """
    counts = torch.bincount(torch.as_tensor(labels)).double()
    share = counts[counts > 0] / counts.sum()
    return abs(float(-(share * share.log()).sum()))
