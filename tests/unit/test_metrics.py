"""Inception Score, entropy, Vendi score and pairwise distance: closed forms and slow twins."""

import math

import pytest
import torch

from b2diffurl.evaluation.metrics import (
    entropy,
    inception_score,
    mean_pairwise_distance,
    pairwise_distances,
    vendi_score,
)
from tests.reference import diversity as slow


@pytest.mark.parametrize("num_classes", [1, 2, 10])
def test_certain_and_evenly_spread_images_score_the_number_of_classes(num_classes: int) -> None:
    logits = (torch.eye(num_classes) * 200).repeat(3, 1)
    assert inception_score(logits) == pytest.approx(num_classes)


def test_identical_images_score_1() -> None:
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(0)).repeat(5, 1)
    assert inception_score(logits) == pytest.approx(1)
    assert inception_score(torch.zeros(4, 3)) == 1


def test_two_images_by_hand() -> None:
    """p(y|x) = (p, 1-p) and (1-p, p): the marginal is even, each KL is log 2 - H(p)."""
    p = 0.9
    logits = torch.tensor([[p, 1 - p], [1 - p, p]]).log()
    binary_entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert inception_score(logits) == pytest.approx(math.exp(math.log(2) - binary_entropy))


def test_unnormalized_gaussian_features_score_about_exp_of_half_their_variance() -> None:
    """The paper's table 1 uses the CLIP embedding as logits: values near 1.3 for a standard deviation of 0.72."""
    features = 0.72 * torch.randn(2000, 1024, generator=torch.Generator().manual_seed(0))
    assert inception_score(features) == pytest.approx(math.exp(0.72**2 / 2), rel=0.02)


def test_a_constant_added_to_the_logits_of_an_image_changes_nothing() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert inception_score(logits + torch.arange(6.0)[:, None]) == pytest.approx(inception_score(logits), rel=1e-5)


def test_a_class_without_images_adds_nothing() -> None:
    assert inception_score(torch.tensor([[2000.0, 0.0, 0.0], [0.0, 2000.0, 0.0]])) == pytest.approx(2)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 3, 3], 0.0),
        ([0, 1, 2, 3], math.log(4)),
        ([7, 2, 7, 2], math.log(2)),
        ([0, 0, 0, 1], -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))),
    ],
)
def test_entropy_is_that_of_the_fractions(labels: list[int], expected: float) -> None:
    assert entropy(labels) == pytest.approx(expected)
    assert entropy(torch.tensor(labels)) == pytest.approx(expected)
    assert not str(entropy(labels)).startswith("-")


def features(num: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed)) + 0.7


@pytest.mark.parametrize("num", [1, 2, 7])
def test_vendi_counts_orthogonal_images_and_not_copies(num: int) -> None:
    """Lengths do not matter, and a second copy of every image changes no eigenvalue."""
    orthogonal = torch.eye(num, 9) * torch.arange(1.0, num + 1)[:, None]
    assert vendi_score(orthogonal) == pytest.approx(num)
    assert vendi_score(orthogonal.repeat(3, 1)) == pytest.approx(num)
    assert vendi_score(features(1, 5).repeat(num, 1)) == pytest.approx(1)


def test_vendi_of_two_images_by_hand() -> None:
    """Eigenvalues of [[1, c], [c, 1]] / 2: (1 + c) / 2 and (1 - c) / 2."""
    c = math.cos(0.7)
    found = vendi_score(torch.tensor([[1.0, 0.0], [c, math.sin(0.7)]]))
    assert found == pytest.approx(math.exp(-sum(v * math.log(v) for v in ((1 + c) / 2, (1 - c) / 2))))


@pytest.mark.parametrize(("num", "width"), [(4, 9), (9, 4), (12, 12)])
def test_diversity_equals_the_slow_twins(num: int, width: int) -> None:
    x, groups = features(num, width), torch.arange(num) % 3
    rows = x.double().tolist()
    assert vendi_score(x) == pytest.approx(slow.vendi_score(rows))
    assert mean_pairwise_distance(x, groups) == pytest.approx(slow.mean_pairwise_distance(rows, groups.tolist()))
    assert inception_score(x) == pytest.approx(slow.inception_score(rows))
    assert entropy(groups) == pytest.approx(slow.entropy(groups.tolist()))


def test_distances_are_those_within_groups() -> None:
    """Groups of equal images: 0. Orthogonal, opposite: 1, 2. Each group counts the same, whatever its size."""
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 1.0], [0.0, -1.0]])
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    assert pairwise_distances(x, groups).tolist() == pytest.approx([0, 1, 2])
    assert mean_pairwise_distance(torch.cat([x, x[:1]]), torch.tensor([0, 0, 1, 1, 2, 2, 0])) == pytest.approx(1)


def test_a_group_of_one_image_has_no_distance() -> None:
    x, groups = features(3, 4), torch.tensor([0, 1, 0])
    assert math.isnan(float(pairwise_distances(x, groups)[1]))
    assert mean_pairwise_distance(x, groups) == pytest.approx(1 - slow.cosine(x[0].tolist(), x[2].tolist()))
