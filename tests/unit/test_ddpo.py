"""DDPO's loss and gradient against the slow twin, and what clipping does."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from b2diffurl.algorithm.objectives import DDPO
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.errors import UserError
from tests.reference import ddpo as twin

LOG_PROBS = st.floats(-2, 2)
ADVANTAGES = st.floats(-5, 5)
CLIP_RANGES = st.floats(0.001, 0.9)


def loss_and_gradient(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, *, clip_range: float
) -> tuple[Tensor, Tensor]:
    log_prob = log_prob.clone().requires_grad_()
    loss = DDPO(clip_range=clip_range).loss(
        StepBatch(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    )
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    return loss.detach(), gradient


def one(ratio: float, advantage: float, *, clip_range: float = 0.1) -> tuple[float, float]:
    """Loss and gradient of a single step with this ratio."""
    loss, gradient = loss_and_gradient(
        torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), clip_range=clip_range
    )
    return loss.item(), gradient.item()


@given(log_prob=LOG_PROBS, old=LOG_PROBS, advantage=ADVANTAGES, clip_range=CLIP_RANGES)
def test_equals_the_twin(log_prob: float, old: float, advantage: float, clip_range: float) -> None:
    assume(abs(abs(math.exp(log_prob - old) - 1) - clip_range) > 1e-9)  # at the corner the gradient has no one value
    numbers = [torch.tensor([value], dtype=torch.float64) for value in (log_prob, old, advantage)]
    loss, gradient = loss_and_gradient(*numbers, clip_range=clip_range)
    assert loss.item() == pytest.approx(twin.loss(log_prob, old, advantage, clip_range=clip_range), abs=1e-6)
    assert gradient.item() == pytest.approx(twin.gradient(log_prob, old, advantage, clip_range=clip_range), abs=1e-6)


def test_a_batch_in_float32_equals_the_twin_step_by_step() -> None:
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(500, generator=generator)
    log_prob, advantage = old + 0.2 * torch.randn(500, generator=generator), torch.randn(500, generator=generator)
    loss, gradient = loss_and_gradient(log_prob, old, advantage, clip_range=0.1)
    steps = list(zip(log_prob.tolist(), old.tolist(), advantage.tolist(), strict=True))
    assert loss.tolist() == pytest.approx([twin.loss(*step, clip_range=0.1) for step in steps], abs=1e-6)
    assert gradient.tolist() == pytest.approx([twin.gradient(*step, clip_range=0.1) for step in steps], abs=1e-6)


@given(log_prob=LOG_PROBS, advantage=ADVANTAGES)
def test_the_twins_gradient_is_the_slope_of_the_twins_loss(log_prob: float, advantage: float) -> None:
    width = 1e-6
    assume(abs(abs(math.exp(log_prob) - 1) - 0.1) > 1e-4)
    high, low = (twin.loss(log_prob + sign * width, 0.0, advantage, clip_range=0.1) for sign in (1, -1))
    slope = (high - low) / (2 * width)
    assert twin.gradient(log_prob, 0.0, advantage, clip_range=0.1) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@given(log_prob=st.floats(-100, 100), advantage=st.floats(-5, 5, width=32, allow_subnormal=False))
def test_at_ratio_one_the_loss_is_minus_the_advantage(log_prob: float, advantage: float) -> None:
    same = torch.tensor([log_prob])
    loss, gradient = loss_and_gradient(same, same, torch.tensor([advantage]), clip_range=0.1)
    assert loss.item() == gradient.item() == -advantage


@pytest.mark.parametrize(("ratio", "advantage", "loss"), [(1.2, 2.0, -2.2), (0.8, -2.0, 1.8), (5.0, 1.0, -1.1)])
def test_no_gradient_where_the_ratio_has_gone_too_far(ratio: float, advantage: float, loss: float) -> None:
    assert one(ratio, advantage) == (pytest.approx(loss), 0.0)


@pytest.mark.parametrize(("ratio", "advantage", "loss"), [(0.8, 2.0, -1.6), (1.2, -2.0, 2.4), (5.0, -1.0, 5.0)])
def test_full_gradient_where_the_ratio_must_come_back(ratio: float, advantage: float, loss: float) -> None:
    """The pessimistic side, where a loss of log(clamp(ratio)) has none."""
    assert one(ratio, advantage) == (pytest.approx(loss), pytest.approx(-ratio * advantage))
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    (-advantage * log_ratio.exp().clamp(0.9, 1.1).log()).backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == 0


@given(ratio=st.floats(0.1, 3), advantage=ADVANTAGES)
def test_clip_fraction_says_where_the_gradient_is_gone(ratio: float, advantage: float) -> None:
    assume(abs(abs(ratio - 1) - 0.1) > 1e-5)
    assume(abs(advantage) > 1e-5)
    batch = StepBatch(
        log_prob=torch.tensor([math.log(ratio)]), old_log_prob=torch.zeros(1), advantage=torch.tensor([advantage])
    )
    assert DDPO().metrics(batch)["clip_fraction"].tolist() == [float(one(ratio, advantage)[1] == 0)]


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_a_bad_clip_range_is_refused_in_one_sentence(value: float) -> None:
    with pytest.raises(UserError) as refused:
        DDPO(clip_range=value)
    assert str(refused.value) == f"objective.clip_range is {value}; give a number above 0, such as 0.1."
