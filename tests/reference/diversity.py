"""Vendi score and pairwise distance, from one pair of images after the other."""

import math
from collections.abc import Sequence

import numpy as np


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of two vectors."""
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def vendi_score(features: Sequence[Sequence[float]]) -> float:
    """Exp(-sum of l log l) over the eigenvalues l of the kernel of all pairs over the number of images."""
    num = len(features)
    kernel = np.array([[cosine(a, b) / num for b in features] for a in features])
    entropy = 0.0
    for value in np.linalg.eigvals(kernel).real:
        if value > 1e-12:
            entropy -= value * math.log(value)
    return math.exp(entropy)


def mean_pairwise_distance(features: Sequence[Sequence[float]], groups: Sequence[int]) -> float:
    """1 - cosine over the pairs of each group; then over the groups that have a pair."""
    means = []
    for group in sorted(set(groups)):
        members = [i for i in range(len(features)) if groups[i] == group]
        distances = [1 - cosine(features[i], features[j]) for i in members for j in members if i < j]
        if distances:
            means.append(sum(distances) / len(distances))
    return sum(means) / len(means)


def inception_score(logits: Sequence[Sequence[float]]) -> float:
    """Exp of the mean KL divergence of each image's class probabilities from their average."""
    probabilities = []
    for row in logits:
        exponentials = [math.exp(value - max(row)) for value in row]
        probabilities.append([value / sum(exponentials) for value in exponentials])
    marginal = [sum(p[k] for p in probabilities) / len(probabilities) for k in range(len(probabilities[0]))]
    divergences = [
        sum(p * math.log(p / m) for p, m in zip(row, marginal, strict=True) if p > 0) for row in probabilities
    ]
    return math.exp(sum(divergences) / len(divergences))


def entropy(labels: Sequence[int]) -> float:
    """-sum of f log f over the fractions f of the labels."""
    fractions = [list(labels).count(label) / len(labels) for label in set(labels)]
    return -sum(f * math.log(f) for f in fractions)
