"""A chain that is linear in its noise, with a reward that is linear too: every number of the probe has a closed form.

The network predicts a multiple of the latents plus one bias, so that x_{t-1} = m_t x_t + d_t bias + s_t z_t. The reward
is the mean of x_0. Step t then decides the variance v_t = (s_t times all later m)^2 / num_elements.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from b2diffurl.algorithm.policy import DenoisingPolicy
from b2diffurl.diffusion.ddim import DDIM

NUM_STEPS, NUM_ELEMENTS = 5, 4
ALPHA = torch.linspace(0.1, 0.9, NUM_STEPS, dtype=torch.float64)
CHAIN = DDIM(
    timesteps=torch.arange(NUM_STEPS - 1, -1, -1),
    alpha=ALPHA,
    alpha_prev=torch.cat([ALPHA[1:], torch.tensor([0.97], dtype=torch.float64)]),
    eta=1.0,
)


class LinearPolicy(nn.Module):
    """Predicts sqrt(1 - a_t) x plus a bias."""

    device = torch.device("cpu")
    latent_shape = (1, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.bias = 0.0

    @contextmanager
    def reference(self) -> Generator[None]:
        yield

    @contextmanager
    def moved(self, scale: float) -> Generator[None]:
        """Within this context all biases are larger by `scale`."""
        self.bias += scale
        try:
            yield
        finally:
            self.bias -= scale

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts))

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Tensor, *, guidance_scale: float) -> Tensor:
        assert len(conditioning) == len(x)
        assert guidance_scale == 1.0
        a = ALPHA.flip(0)[timestep].float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x + self.bias


def bound(network: LinearPolicy) -> DenoisingPolicy:
    return DenoisingPolicy(denoiser=network, chain=CHAIN, guidance_scale=1.0)


def coefficients() -> tuple[list[float], list[float]]:
    """For each step, what one unit of its noise adds to x_0, and d mean / d bias over the standard deviation."""
    factors, shifts, stds = [], [], []
    for step in range(NUM_STEPS):
        index, zero, one = torch.tensor([step]), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
        root = (1 - ALPHA[step]).sqrt().float()
        gaussian = CHAIN.transition(zero, zero, index)
        factors.append(float(CHAIN.transition(root * one, one, index).mean[0, 0, 0, 0]))
        shifts.append(float(CHAIN.transition(one, zero, index).mean[0, 0, 0, 0]))
        stds.append(float(gaussian.var.sqrt()))
    effects = []
    for step in range(NUM_STEPS):
        effect = stds[step]
        for factor in factors[step + 1 :]:
            effect *= factor
        effects.append(effect)
    return effects, [shift / std for shift, std in zip(shifts, stds, strict=True)]


def initial_effect() -> float:
    """What one unit of x_T adds to x_0."""
    effects, _ = coefficients()
    index, one = torch.tensor([0]), torch.ones(1, 1, 2, 2)
    first = CHAIN.transition((1 - ALPHA[0]).sqrt().float() * one, one, index)
    return effects[0] * float(first.mean[0, 0, 0, 0]) / float(first.var.sqrt())


def mean_reward(latents: Tensor) -> Tensor:
    return latents.double().mean(dim=(-3, -2, -1))
