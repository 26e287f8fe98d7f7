"""The one check of scores: shape, kind and finiteness."""

import pytest
import torch

from b2diffurl.rewards.scores import InvalidScoresError, check_scores


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32])
def test_one_finite_number_per_image_is_a_score(dtype: torch.dtype) -> None:
    assert check_scores(torch.ones(3, dtype=dtype), 3, name="r").dtype == torch.float64


@pytest.mark.parametrize("shape", [(), (2,), (3, 1), (1, 3)])
def test_scores_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidScoresError) as refused:
        check_scores(torch.zeros(shape), 3, name="r")
    assert str(refused.value).startswith(f"reward r returned shape {shape} for 3 images; ")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(InvalidScoresError, match=f"^the reward of image 1 is {value}"):
        check_scores(torch.tensor([0.0, value, float("nan")]), 3, name="r")


def test_a_score_whose_square_overflows_is_refused() -> None:
    with pytest.raises(InvalidScoresError, match=r"^the reward of image 1 is 1e\+300, whose square overflows; divide"):
        check_scores(torch.tensor([0.0, 1e300], dtype=torch.float64), 2, name="r")
    assert check_scores(torch.tensor([1e300], dtype=torch.float64), 1, name="r", require_finite=False) == 1e300
