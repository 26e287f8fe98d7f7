"""The policy gradient's loss and gradient against the slow twin."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.algorithm.objectives import PolicyGradient
from b2diffurl.algorithm.records import StepBatch
from tests.reference import policy_gradient as twin

NUMBERS = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(-5, 5)), min_size=1, max_size=5)


@given(steps=NUMBERS)
def test_equals_the_twin(steps: list[tuple[float, float, float]]) -> None:
    log_prob, old, advantage = (torch.tensor(column, dtype=torch.float64) for column in zip(*steps, strict=True))
    log_prob.requires_grad_()
    loss = PolicyGradient().loss(StepBatch(log_prob=log_prob, old_log_prob=old, advantage=advantage))
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert loss.tolist() == pytest.approx([twin.loss(now, a) for now, _, a in steps], abs=1e-6)
    assert gradient.tolist() == pytest.approx([twin.gradient(a) for _, _, a in steps], abs=1e-6)


@given(log_prob=st.floats(-10, 10), advantage=st.floats(-5, 5))
def test_the_twins_gradient_is_the_slope_of_the_twins_loss(log_prob: float, advantage: float) -> None:
    high, low = twin.loss(log_prob + 1e-3, advantage), twin.loss(log_prob - 1e-3, advantage)
    assert twin.gradient(advantage) == pytest.approx((high - low) / 2e-3, abs=1e-9)
