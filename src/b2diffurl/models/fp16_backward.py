"""Float16 backward passes with gradients scaled into range.

`torch.amp.GradScaler` scales one loss per optimizer step and skips steps that overflow; this scales every backward pass
by its own power of two, so no step is skipped and nothing has to be saved to resume.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def backward_in_range(output: Callable[[], Tensor], parameters: Sequence[torch.nn.Parameter]) -> Tensor:
    """Compute the output of a float16 network in float32; its backward pass neither underflows nor overflows.

    A log-prob averaged over the elements of a latent has gradients near 1e-8, below the smallest float16 number. The
    gradient that enters the network is scaled to about 1 by a power of two, and the gradients of the parameters are
    scaled back, which does not change values that were in range (loss scaling, arXiv 1710.03740, per backward pass).

    Args:
        output: the forward pass.
        parameters: all trainable parameters of the forward pass, float32.
    """
    result = _InRange.apply(output, *parameters)
    assert isinstance(result, Tensor)
    return result


class _InRange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Callable[[], Tensor], *parameters: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            result = output()
        ctx.output = result
        ctx.parameters = parameters
        return result.detach().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.output.requires_grad:
            return (None, *(None for _ in ctx.parameters))
        largest = gradient.abs().max()
        scale = torch.exp2(-torch.floor(torch.log2(largest))) if largest > 0 else torch.ones_like(largest)
        scaled = (gradient * scale).to(ctx.output.dtype)
        gradients = torch.autograd.grad(ctx.output, ctx.parameters, scaled)
        return (None, *(value / scale for value in gradients))
