"""Log-density and divergence against torch.distributions and the slow twin."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from b2diffurl.diffusion.gaussian import Gaussian, kl_of_log_ratios
from tests.reference import gaussian as twin
from tests.tiny import chain, stable_diffusion_scheduler


def make_gaussian(*, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    return Gaussian(mean=torch.randn(3, 2, 4, 5, generator=generator), var=torch.tensor([1e-3, 0.3, 1.0]))


def as_normal(gaussian: Gaussian) -> Normal:
    return Normal(gaussian.mean, gaussian.var.sqrt().view(-1, 1, 1, 1))


def test_sample_shifts_and_scales_noise() -> None:
    gaussian = Gaussian(mean=torch.full((1, 1, 1, 2), 3.0), var=torch.tensor([4.0]))
    assert gaussian.sample(torch.tensor([[[[0.0, -1.0]]]])).flatten().tolist() == [3.0, 1.0]


def test_summed_log_prob_equals_torch_distributions() -> None:
    gaussian = make_gaussian()
    x = gaussian.sample(torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(1)))
    expected = as_normal(gaussian).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian.log_prob(x, reduction="sum"), expected, rtol=1e-6, atol=1e-4)


def test_averaged_log_prob_is_the_sum_over_the_number_of_elements() -> None:
    gaussian, x = make_gaussian(), make_gaussian(seed=2).mean
    torch.testing.assert_close(gaussian.log_prob(x), gaussian.log_prob(x, reduction="sum") / 40)
    assert torch.equal(gaussian.log_prob(x), gaussian.log_prob(x, reduction="mean"))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_prob_equals_the_twin(reduction: str) -> None:
    gaussian, x = make_gaussian(), make_gaussian(seed=2).mean
    expected = [
        twin.log_prob(value.flatten().tolist(), mean.flatten().tolist(), var, reduction=reduction)
        for value, mean, var in zip(x, gaussian.mean, gaussian.var.tolist(), strict=True)
    ]
    assert gaussian.log_prob(x, reduction=reduction).tolist() == pytest.approx(expected, rel=1e-5)  # pyright: ignore[reportArgumentType]


def test_one_deterministic_step_in_a_batch_refuses_the_log_prob() -> None:
    gaussian = Gaussian(mean=torch.zeros(2, 1, 1, 1), var=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="variance 0 is deterministic and has no log-prob"):
        gaussian.log_prob(torch.zeros(2, 1, 1, 1))


def test_kl_equals_torch_distributions_and_has_its_gradient() -> None:
    gaussian, other = make_gaussian(), Gaussian(mean=make_gaussian(seed=2).mean, var=make_gaussian().var)
    gaussian.mean.requires_grad_()
    kl = gaussian.kl(other)
    expected = kl_divergence(as_normal(gaussian), as_normal(other)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(kl, expected, rtol=1e-5, atol=1e-4)
    (gradient,) = torch.autograd.grad(kl.sum(), gaussian.mean)
    assert gradient.abs().min() > 0
    by_hand = (gaussian.mean - other.mean) / gaussian.var.view(-1, 1, 1, 1)
    torch.testing.assert_close(gradient, by_hand.detach())


def test_kl_sees_a_shift_that_is_the_same_for_a_whole_batch() -> None:
    """A KL over the batch dimension would be 0."""
    gaussian = make_gaussian()
    shifted = Gaussian(mean=gaussian.mean + 0.5, var=gaussian.var)
    torch.testing.assert_close(gaussian.kl(shifted), 40 * 0.25 / (2 * gaussian.var), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("storage", "error"), [(torch.float16, 1e-4), (torch.bfloat16, 5e-3)])
def test_a_latent_is_rounded_to_its_storage_dtype_before_its_log_prob(storage: torch.dtype, error: float) -> None:
    """If rounded afterwards, rounding alone changes the ratio without any update, most at the last step."""
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=20, eta=1.0)
    generator = torch.Generator().manual_seed(0)
    out, x, noise = (torch.randn(16, 4, 8, 8, generator=generator) for _ in range(3))
    wrong = {}
    for step in (5, 19):
        gaussian = ddim.transition(out, x, torch.full((16,), step))
        action = gaussian.sample(noise)
        stored = action.to(storage)
        wrong[step] = (gaussian.log_prob(stored) - gaussian.log_prob(action)).exp().sub(1).abs().max().item()
        assert torch.equal(gaussian.log_prob(stored), gaussian.log_prob(stored.float()))
    assert wrong[19] > 2 * wrong[5]
    assert wrong[19] > error


# KL from log-ratios


def log_ratios(*, shift: float, num_elements: int, num_latents: int) -> tuple[torch.Tensor, float]:
    """Log-ratios of actions of a Gaussian under one whose mean is `shift` standard deviations away in every element."""
    generator = torch.Generator().manual_seed(num_elements)
    shape, var = (num_latents, 1, 1, num_elements), torch.full((num_latents,), 0.09)
    old = Gaussian(mean=torch.zeros(shape), var=var)
    new = Gaussian(mean=torch.full(shape, shift * 0.3), var=var)
    x = old.sample(torch.randn(shape, generator=generator))
    kl = float(kl_divergence(as_normal(old), as_normal(new)).mean())
    return new.log_prob(x, reduction="sum").double() - old.log_prob(x, reduction="sum").double(), kl


@pytest.mark.parametrize("shift", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("num_elements", [64, 256, 16_384])
def test_the_kl_of_log_ratios_is_exact_per_element(shift: float, num_elements: int) -> None:
    """For any latent size: half the mean square would be 42 times too large for 0.1 and Stable Diffusion's size."""
    ratios, exact = log_ratios(shift=shift, num_elements=num_elements, num_latents=1000)
    assert kl_of_log_ratios(float((ratios**2).mean()), num_elements=num_elements) == pytest.approx(exact, rel=0.1)
    assert exact == pytest.approx(shift**2 / 2, rel=1e-3)


def test_a_small_kl_is_half_the_mean_square() -> None:
    assert kl_of_log_ratios(1e-14, num_elements=1) == pytest.approx(0.5e-14, rel=1e-6)
    assert kl_of_log_ratios(0.0, num_elements=5) == 0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_log_ratios_do_not_give_a_small_kl(value: float) -> None:
    assert not kl_of_log_ratios(value, num_elements=4) <= 1e9
