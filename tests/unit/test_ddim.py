"""The transition against stock diffusers and against the slow twin."""

import pytest
import torch
from torch import Tensor

from b2diffurl.diffusion.ddim import DDIM
from tests.reference import ddim as twin
from tests.tiny import chain, stable_diffusion_scheduler

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
ETAS = [0.3, 1.0]
LENGTHS = [5, 20, 50]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampled(ddim: DDIM, out: Tensor, x: Tensor, step: int, noise: Tensor) -> Tensor:
    return ddim.transition(out, x, torch.full((len(x),), step)).sample(noise)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", LENGTHS)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_equals_stock_diffusers_at_every_step(prediction_type: str, eta: float, num_steps: int, spacing: str) -> None:
    scheduler = stable_diffusion_scheduler(prediction_type=prediction_type, timestep_spacing=spacing)
    ddim = chain(scheduler, num_inference_steps=num_steps, eta=eta)
    out, x, noise = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2)
    # Diffusers computes 1 - a in float32; with "sample" its last step divides by the root and is itself 1.7e-5 off.
    atol = 2e-5 if prediction_type == "sample" else 1e-5
    ours = [sampled(ddim, out, x, step, noise) for step in range(num_steps)]
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        stock = scheduler.step(out, timestep, x, eta=eta, variance_noise=noise, return_dict=False)[0]
        torch.testing.assert_close(ours[step], stock, rtol=0, atol=atol)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        exact = scheduler.step(
            out.double(), timestep, x.double(), eta=eta, variance_noise=noise.double(), return_dict=False
        )[0]
        torch.testing.assert_close(ours[step].double(), exact, rtol=0, atol=2e-6)


@pytest.mark.parametrize("num_steps", LENGTHS)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_equals_the_twin_at_every_step(prediction_type: str, eta: float, num_steps: int) -> None:
    scheduler = stable_diffusion_scheduler(prediction_type=prediction_type)
    ddim = chain(scheduler, num_inference_steps=num_steps, eta=eta)
    out, x = normal(1, 1, 2, 3), normal(1, 1, 2, 3, seed=1)
    for step in range(num_steps):
        mean, var = twin.transition(
            out.flatten().tolist(),
            x.flatten().tolist(),
            alpha=ddim.alpha[step].item(),
            alpha_prev=ddim.alpha_prev[step].item(),
            eta=eta,
            prediction_type=prediction_type,
        )
        gaussian = ddim.transition(out, x, torch.tensor([step]))
        assert gaussian.mean.flatten().tolist() == pytest.approx(mean, abs=2e-6)
        assert gaussian.var.item() == pytest.approx(var, rel=1e-6)


@pytest.mark.parametrize("num_steps", LENGTHS)
def test_the_chain_is_stable_diffusions(num_steps: int) -> None:
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=num_steps, eta=1.0)
    alphas, timesteps = twin.stable_diffusion_alphas(), twin.leading_timesteps(num_steps)
    assert ddim.timesteps.tolist() == timesteps
    assert ddim.alpha.tolist() == pytest.approx([alphas[t] for t in timesteps], rel=1e-5)
    assert ddim.alpha_prev.tolist() == pytest.approx([alphas[t] for t in timesteps[1:]] + [alphas[0]], rel=1e-5)


def test_steps_may_differ_within_a_batch() -> None:
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=20, eta=1.0)
    step_index = torch.tensor([19, 0, 7, 7, 18])
    out, x, noise = normal(5, 4, 3, 3), normal(5, 4, 3, 3, seed=1), normal(5, 4, 3, 3, seed=2)
    mixed = ddim.transition(out, x, step_index).sample(noise)
    for i, step in enumerate(step_index.tolist()):
        alone = sampled(ddim, out[i : i + 1], x[i : i + 1], step, noise[i : i + 1])
        assert torch.equal(mixed[i : i + 1], alone)


def test_the_last_step_is_an_action_with_stable_diffusions_final_alpha() -> None:
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=20, eta=1.0)
    assert all(ddim.is_action(step) for step in range(20))


def test_a_last_step_to_alpha_one_is_deterministic_and_has_no_log_prob() -> None:
    ddim = chain(stable_diffusion_scheduler(set_alpha_to_one=True), num_inference_steps=20, eta=1.0)
    assert [ddim.is_action(step) for step in range(20)] == [True] * 19 + [False]
    assert ddim.sensitivity[-1].item() == float("inf")
    out, x = normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1)
    gaussian = ddim.transition(out, x, torch.tensor([18, 19]))
    x0_hat = (x[1] - (1 - ddim.alpha[19]).sqrt().float() * out[1]) / ddim.alpha[19].sqrt().float()
    torch.testing.assert_close(gaussian.mean[1], x0_hat, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="no log-prob"):
        gaussian.log_prob(x)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_previous_step_is_the_schedules_next_timestep(spacing: str) -> None:
    """It is not t - 1000 // T, which differs for "linspace"."""
    scheduler = stable_diffusion_scheduler(timestep_spacing=spacing)
    ddim = chain(scheduler, num_inference_steps=20, eta=1.0)
    alphas = scheduler.alphas_cumprod.double()
    assert ddim.alpha_prev[:-1].tolist() == [alphas[t].item() for t in scheduler.timesteps.tolist()[1:]]
    assert ddim.alpha_prev[-1].item() == alphas[0].item()


def test_another_spacing_gives_another_chain() -> None:
    leading = chain(stable_diffusion_scheduler(), num_inference_steps=20, eta=1.0)
    trailing = chain(stable_diffusion_scheduler(timestep_spacing="trailing"), num_inference_steps=20, eta=1.0)
    assert leading.timesteps[[0, -1]].tolist() == [951, 1]
    assert trailing.timesteps[[0, -1]].tolist() == [999, 49]
    out, x, noise = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1), normal(1, 1, 2, 2, seed=2)
    assert not torch.allclose(sampled(leading, out, x, 19, noise), sampled(trailing, out, x, 19, noise), atol=1e-3)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_sensitivity_equals_the_twin(prediction_type: str, eta: float) -> None:
    ddim = chain(stable_diffusion_scheduler(prediction_type=prediction_type), num_inference_steps=20, eta=eta)
    expected = [
        twin.sensitivity(alpha=a, alpha_prev=a_prev, eta=eta, prediction_type=prediction_type)
        for a, a_prev in zip(ddim.alpha.tolist(), ddim.alpha_prev.tolist(), strict=True)
    ]
    assert ddim.sensitivity.tolist() == pytest.approx(expected, rel=1e-9)


def test_stable_diffusions_second_to_last_step_is_the_sensitive_one() -> None:
    *others, second_to_last, last = chain(
        stable_diffusion_scheduler(), num_inference_steps=20, eta=1.0
    ).sensitivity.tolist()
    assert second_to_last == pytest.approx(5.4, abs=0.1)
    assert all(0.6 < value < 1.2 for value in [*others, last])


def test_half_precision_predictions_give_a_float32_gaussian() -> None:
    ddim = chain(stable_diffusion_scheduler(), num_inference_steps=20, eta=1.0)
    gaussian = ddim.transition(normal(1, 1, 2, 2).half(), normal(1, 1, 2, 2).half(), torch.tensor([3]))
    assert gaussian.mean.dtype == gaussian.var.dtype == torch.float32
