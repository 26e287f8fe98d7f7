"""DPOK's loss and gradient against the slow twin, its KL against torch.distributions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from b2diffurl.algorithm.objectives import DDPO, DPOK, DDPOKl
from b2diffurl.algorithm.records import StepBatch
from b2diffurl.diffusion.gaussian import Gaussian
from b2diffurl.errors import UserError
from tests.reference import dpok as twin

LOG_PROBS = st.floats(-50, 50)
ADVANTAGES = st.floats(-5, 5)
KLS = st.floats(0, 100)
BETAS = st.floats(0, 10)


@given(steps=st.lists(st.tuples(LOG_PROBS, ADVANTAGES, KLS), min_size=1, max_size=5), beta=BETAS)
def test_equals_the_twin(steps: list[tuple[float, float, float]], beta: float) -> None:
    log_prob, advantage, kl = (torch.tensor(column, dtype=torch.float64) for column in zip(*steps, strict=True))
    log_prob.requires_grad_()
    kl.requires_grad_()
    batch = StepBatch(
        log_prob=log_prob,
        old_log_prob=torch.zeros_like(log_prob),
        advantage=advantage,
        reference_log_prob=torch.zeros_like(log_prob),
        kl_to_reference=kl,
    )
    loss = DPOK(beta=beta).loss(batch)
    by_log_prob, by_kl = torch.autograd.grad(loss.sum(), (log_prob, kl))
    assert loss.tolist() == pytest.approx([twin.loss(*step, beta=beta) for step in steps], abs=1e-6)
    expected = [twin.gradient(a, beta=beta) for _, a, _ in steps]
    assert by_log_prob.tolist() == pytest.approx([slope for slope, _ in expected], abs=1e-6)
    assert by_kl.tolist() == pytest.approx([slope for _, slope in expected], abs=1e-6)
    assert DPOK(beta=beta).metrics(batch)["kl_term"].tolist() == pytest.approx([beta * k for _, _, k in steps])


@given(log_prob=st.floats(-10, 10), advantage=ADVANTAGES, kl=st.floats(1, 10), beta=BETAS)
def test_the_twins_gradient_is_the_slope_of_the_twins_loss(
    log_prob: float, advantage: float, kl: float, beta: float
) -> None:
    w = 1e-3
    by_log_prob = twin.loss(log_prob + w, advantage, kl, beta=beta) - twin.loss(log_prob - w, advantage, kl, beta=beta)
    by_kl = twin.loss(log_prob, advantage, kl + w, beta=beta) - twin.loss(log_prob, advantage, kl - w, beta=beta)
    slopes = (by_log_prob / (2 * w), by_kl / (2 * w))
    assert twin.gradient(advantage, beta=beta) == pytest.approx(slopes, abs=1e-8)


def test_the_kl_is_torch_distributions_and_has_a_gradient_on_every_element() -> None:
    """In float64 and with one variance a latent, from tiny (a chain's last steps) to large."""
    generator = torch.Generator().manual_seed(0)
    mean, other = (torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    var = torch.tensor([1e-4, 0.3, 2.0], dtype=torch.float64)
    mean.requires_grad_()
    kl = Gaussian(mean=mean, var=var).kl(Gaussian(mean=other, var=var))
    std = var.sqrt().view(-1, 1, 1, 1)
    expected = kl_divergence(Independent(Normal(mean, std), 3), Independent(Normal(other, std), 3))
    torch.testing.assert_close(kl, expected, rtol=1e-9, atol=1e-9)
    literal = [
        twin.kl(m.flatten().tolist(), o.flatten().tolist(), v)
        for m, o, v in zip(mean.detach(), other, var.tolist(), strict=True)
    ]
    assert kl.tolist() == pytest.approx(literal, rel=1e-9)
    (gradient,) = torch.autograd.grad(kl.sum(), mean)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), mean)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)
    assert float(gradient.abs().min()) > 0


@pytest.mark.parametrize("value", [-0.01, float("nan"), float("inf")])
def test_a_bad_beta_is_refused_in_one_sentence(value: float) -> None:
    with pytest.raises(UserError) as refused:
        DPOK(beta=value)
    assert str(refused.value) == f"objective.beta is {value}; give 0 (no KL term) or more, such as 0.01."


def test_without_beta_it_is_the_policy_gradient() -> None:
    assert DPOK(beta=0.0).beta == 0


def test_ddpo_with_a_kl_term_is_the_sum_of_both() -> None:
    zero, steps = torch.zeros(2), torch.tensor([0.3, -0.3])
    batch = StepBatch(
        log_prob=steps, old_log_prob=zero, advantage=torch.tensor([1.0, 2.0]), reference_log_prob=zero,
        kl_to_reference=torch.tensor([0.5, 0.25]),
    )  # fmt: skip
    ddpo, both = DDPO(clip_range=0.2), DDPOKl(clip_range=0.2, beta=0.4)
    assert both.loss(batch).tolist() == pytest.approx((ddpo.loss(batch) + torch.tensor([0.2, 0.1])).tolist())
    assert {name: values.tolist() for name, values in both.metrics(batch).items()} == {
        "clip_fraction": [1.0, 0.0], "kl_term": pytest.approx([0.2, 0.1]),
    }  # fmt: skip


def test_ddpo_with_a_kl_term_refuses_what_its_parts_refuse() -> None:
    with pytest.raises(UserError, match=r"^objective\.beta is -1"):
        DDPOKl(beta=-1.0)
    with pytest.raises(UserError, match=r"^objective\.clip_range is 0"):
        DDPOKl(clip_range=0.0)
