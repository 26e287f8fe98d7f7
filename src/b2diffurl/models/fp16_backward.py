"""Backward passes in float16 whose gradients stay in range."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def backward_in_range(output: Callable[[], Tensor], parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """Compute a float16 network's output, in float32, so that its backward pass neither under- nor overflows.

    A log-prob averaged over a latent's elements has gradients near 1e-8, below float16's smallest number. The gradient
    that enters the network is scaled to about 1 by a power of two, and those of the parameters are scaled back, which
    changes no bit of what is in range (loss scaling, arXiv 1710.03740, for each backward pass by itself).

    Args:
        output: the forward pass.
        parameters: float32, all that it has to train.
    """
    found = _InRange.apply(output, *parameters)
    assert isinstance(found, Tensor)
    return found


class _InRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Callable[[], Tensor], *parameters: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            found = output()
        ctx.output, ctx.parameters = found, parameters
        return found.detach().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.output.requires_grad:
            return (None, *(None for _ in ctx.parameters))
        largest = gradient.abs().max()
        scale = torch.exp2(-torch.floor(torch.log2(largest))) if largest > 0 else torch.ones_like(largest)
        scaled = (gradient * scale).to(ctx.output.dtype)
        found = torch.autograd.grad(ctx.output, ctx.parameters, scaled)
        return (None, *(parameter / scale for parameter in found))
