"""Inception Score and entropy: closed forms."""

import math

import pytest
import torch

from b2diffurl.evaluation.metrics import entropy, inception_score


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
