"""DDIM with eta > 0, one number after the other (arXiv 2010.02502, equations 12 and 16), and Stable Diffusion's chain.

A number is a float, or a scalar tensor where a test wants a gradient.
"""

import math
from collections.abc import Sequence
from typing import Any

Number = Any


def stable_diffusion_alphas() -> list[float]:
    """Cumulative products of 1 - beta, the square roots of beta running linearly from sqrt(0.00085) to sqrt(0.012)."""
    alphas, product = [], 1.0
    for i in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999
        product *= 1 - root**2
        alphas.append(product)
    return alphas


def leading_timesteps(num_steps: int) -> list[int]:
    """Every (1000 // T)-th timestep, from high to low, one up: Stable Diffusion's "leading" spacing with offset 1."""
    return [i * (1000 // num_steps) + 1 for i in range(num_steps)][::-1]


def transition(
    model_output: Sequence[Number],
    x: Sequence[Number],
    *,
    alpha: float,
    alpha_prev: float,
    eta: float,
    prediction_type: str = "epsilon",
) -> tuple[list[Number], float]:
    """Mean of every element and the variance that all share.

    x0_hat = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t)
    var    = eta^2 (1 - a_prev) / (1 - a_t) (1 - a_t / a_prev)
    mean   = sqrt(a_prev) x0_hat + sqrt(1 - a_prev - var) eps
    """
    var = eta**2 * (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)
    mean = []
    for out, value in zip(model_output, x, strict=True):
        if prediction_type == "epsilon":
            eps = out
            x0_hat = (value - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
        elif prediction_type == "sample":
            x0_hat = out
            eps = (value - math.sqrt(alpha) * x0_hat) / math.sqrt(1 - alpha)
        else:  # v = sqrt(a) eps - sqrt(1 - a) x0 (arXiv 2202.00512)
            x0_hat = math.sqrt(alpha) * value - math.sqrt(1 - alpha) * out
            eps = math.sqrt(alpha) * out + math.sqrt(1 - alpha) * value
        mean.append(math.sqrt(alpha_prev) * x0_hat + math.sqrt(1 - alpha_prev - var) * eps)
    return mean, var


def sensitivity(*, alpha: float, alpha_prev: float, eta: float, prediction_type: str = "epsilon") -> float:
    """How far the mean moves, in standard deviations, when the output moves by 1: the mean is linear in it."""
    step = {"alpha": alpha, "alpha_prev": alpha_prev, "eta": eta}
    low, var = transition([0.0], [0.0], prediction_type=prediction_type, **step)
    high, _ = transition([1.0], [0.0], prediction_type=prediction_type, **step)
    return abs(high[0] - low[0]) / math.sqrt(var)
