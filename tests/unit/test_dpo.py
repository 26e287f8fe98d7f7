"""DPO's loss and gradient against the slow twin."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from b2diffurl.algorithm.objectives import DPO
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.errors import UserError
from tests.reference import dpo as twin

LOG_PROBS = st.floats(-20, 20)
PAIRS = st.lists(st.tuples(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS), min_size=1, max_size=5)
BETAS = st.floats(0.01, 20)
Pair = tuple[float, float, float, float]


def make_batch(pairs: list[Pair], dtype: torch.dtype = torch.float64) -> StepBatch:
    """Rows i and i + P are the better and the worse of pair i."""
    better, worse, reference_better, reference_worse = (
        torch.tensor(column, dtype=dtype) for column in zip(*pairs, strict=True)
    )
    log_prob = torch.cat([better, worse]).requires_grad_()
    return StepBatch(
        log_prob=log_prob,
        old_log_prob=torch.zeros_like(log_prob),
        advantage=torch.cat([torch.ones_like(better), -torch.ones_like(worse)]),
        reference_log_prob=torch.cat([reference_better, reference_worse]),
    )


@given(pairs=PAIRS, beta=BETAS)
def test_equals_the_twin(pairs: list[Pair], beta: float) -> None:
    batch = make_batch(pairs)
    objective = DPO(beta=beta)
    loss = objective.loss(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), batch.log_prob)
    assert loss.tolist() == pytest.approx([twin.loss(*pair, beta=beta) for pair in pairs], abs=1e-6)
    slopes = [twin.gradient(*pair, beta=beta) for pair in pairs]
    assert gradient.tolist() == pytest.approx([b for b, _ in slopes] + [w for _, w in slopes], abs=1e-6)
    margins = [twin.margin(*pair, beta=beta) for pair in pairs]
    told = objective.metrics(batch)
    assert told["margin"].tolist() == pytest.approx(margins, abs=1e-6)
    ours = told["margin"].tolist()
    assert told["pair_accuracy"].tolist() == [float(margin > 0) for margin in ours]


@given(better=st.floats(-3, 3), worse=st.floats(-3, 3), beta=st.floats(0.1, 3))
def test_the_twins_gradient_is_the_slope_of_the_twins_loss(better: float, worse: float, beta: float) -> None:
    def at(better: float, worse: float) -> float:
        return twin.loss(better, worse, 0.5, -0.5, beta=beta)

    w = 1e-5
    slopes = (
        (at(better + w, worse) - at(better - w, worse)) / (2 * w),
        (at(better, worse + w) - at(better, worse - w)) / (2 * w),
    )
    assert twin.gradient(better, worse, 0.5, -0.5, beta=beta) == pytest.approx(slopes, abs=1e-8)


@pytest.mark.parametrize("far", [1e3, -1e3, 1e6, -1e6])
def test_margins_far_out_are_finite_and_no_gradient_is_clamped_away(far: float) -> None:
    """A pair that is ranked wrong by far has the full slope -beta."""
    batch = make_batch([(far, 0.0, 0.0, 0.0)], torch.float32)
    loss = DPO(beta=0.1).loss(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), batch.log_prob)
    assert loss.item() == pytest.approx(max(0.0, -0.1 * far), rel=1e-6, abs=1e-6)
    assert gradient.tolist() == pytest.approx([-0.1, 0.1] if far < 0 else [0.0, 0.0], abs=1e-6)


def test_at_the_reference_a_pair_is_undecided() -> None:
    batch = make_batch([(-3.0, 2.0, -3.0, 2.0)])
    told = DPO(beta=2.0).metrics(batch)
    assert DPO(beta=2.0).loss(batch).item() == pytest.approx(math.log(2))
    assert told["margin"].tolist() == [0]
    assert told["pair_accuracy"].tolist() == [0]


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_bad_beta_is_refused_in_one_sentence(value: float) -> None:
    with pytest.raises(UserError) as refused:
        DPO(beta=value)
    assert str(refused.value) == f"objective.beta is {value}; give a number above 0, such as 0.1."
