"""Ranges of the adapter's settings."""

import math

import pytest

from b2diffurl.errors import UserError
from b2diffurl.models.lora import LoRA


@pytest.mark.parametrize("rank", [0, -1])
def test_the_rank_is_at_least_1(rank: int) -> None:
    with pytest.raises(UserError, match=rf"^lora\.rank is {rank}; give 1 or more\.$"):
        LoRA(rank=rank)


@pytest.mark.parametrize("alpha", [0.0, -8.0, math.inf, math.nan])
def test_alpha_is_positive_and_finite(alpha: float) -> None:
    with pytest.raises(UserError, match=rf"^lora\.alpha is {alpha}; give a finite number above 0\.$"):
        LoRA(alpha=alpha)


def test_target_modules_are_not_empty() -> None:
    with pytest.raises(UserError, match=r"^lora\.target_modules is empty; name at least one layer, such as to_q\.$"):
        LoRA(target_modules=())
