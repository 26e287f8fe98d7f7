"""The sum of gradients over ranks: one exchange, and the values of a loop over the tensors."""

import pytest
import torch
from torch import Tensor, distributed

from b2diffurl.distributed import Ranks

SHAPES = ((3, 4), (5,), (), (2, 3, 1, 1))


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the sum over ranks by that with a rank whose gradient is a function of this one's; count elements."""
    sizes: list[int] = []

    def all_reduce(total: Tensor) -> None:
        sizes.append(total.numel())
        total.add_(other(total))

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    return sizes


def other(gradient: Tensor) -> Tensor:
    return (3 * gradient + 1).sin()


def parameters(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make parameters with gradients, except for the second one."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
    made[1].grad = None
    return made


def test_all_gradients_are_summed_in_one_exchange(exchanges: list[int]) -> None:
    Ranks(rank=0, world_size=2).sum_gradients(parameters())
    assert exchanges == [12 + 5 + 1 + 6]


@pytest.mark.usefixtures("exchanges")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_is_that_of_a_loop_over_the_tensors(dtype: torch.dtype) -> None:
    summed = parameters(dtype)
    Ranks(rank=0, world_size=2).sum_gradients(summed)
    for parameter, before in zip(summed, parameters(dtype), strict=True):
        own = torch.zeros_like(before) if before.grad is None else before.grad
        assert parameter.grad is not None
        assert parameter.grad.dtype == dtype
        assert torch.equal(parameter.grad, (own.float() + other(own.float())).to(dtype))


def test_one_rank_exchanges_nothing(exchanges: list[int]) -> None:
    alone = parameters()
    Ranks().sum_gradients(alone)
    assert exchanges == []
    assert alone[1].grad is None
