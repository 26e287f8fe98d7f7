"""Linear layers with LoRA that compute with the merged weight W + scaling B A (ours).

PEFT adds scaling B A x to W x: two more products with few columns, and two more passes over the output. With the merged
weight, a layer is as fast as without an adapter. The merged weight is made after a change of the adapter and after a
backward pass; most forward passes, those of sampling, need no new one. In the backward pass, the gradients of A and B
need only products of rank r; the gradient of W is never formed.
"""

# PEFT types its layers loosely.
# pyright: reportUnknownMemberType=false

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


def merge_in_forward(network: nn.Module) -> None:
    """Let the linear LoRA layers of a network compute with merged weights; those of other kinds stay as they are."""
    for module in network.modules():
        if type(module) is Linear:
            module.__class__ = MergedLinear


class MergedLinear(Linear):
    """PEFT's linear layer, whose forward pass takes the merged weight where that is exact but for rounding.

    These are layers with one plain adapter whose numbers are all float32, or all float64, and whose base weights are
    frozen. In half precision W + scaling B A would round a small B A away, so PEFT's own forward pass is taken, as with
    dropout, with several adapters, with a variant such as DoRA, and with an adapter that is off or merged by PEFT.
    Hooks of the layers inside are called by PEFT's forward pass only.
    """

    _merged: "_MergedWeight | None" = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W x + scaling B A x + bias."""
        parts = self._plain_parts()
        if parts is None or args or kwargs or not parts.are_exact_for(x):
            return super().forward(x, *args, **kwargs)
        merged = self._merged
        if merged is None or not merged.is_of(parts):
            merged = self._merged = _MergedWeight.of(parts)
        if torch.is_grad_enabled() and (parts.a.requires_grad or parts.b.requires_grad):
            output = _LowRankBackward.apply(x, parts.a, parts.b, parts.bias, merged, self)
            assert isinstance(output, Tensor)
            return output
        return linear(x, merged.value, parts.bias)

    def unmerge(self) -> None:
        """Unmerge as PEFT does, which rounds the base weight without a new version."""
        self.forget()
        super().unmerge()

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter, and the merged weight."""
        self.forget()
        super().delete_adapter(adapter_name)

    def forget(self) -> None:
        """Forget the merged weight.

        A backward pass does this: fused optimizers, for one, change the parameters without a new version.
        """
        self._merged = None

    def _plain_parts(self) -> "_Parts | None":
        """Return the parts of the layer; None unless exactly one adapter is active, and it is a plain LoRA."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        base = self.base_layer
        if self.disable_adapters or self.merged or len(active) != 1 or type(base) is not nn.Linear:
            return None
        a, b, dropout = (of[active[0]] for of in (self.lora_A, self.lora_B, self.lora_dropout))
        if self.lora_variant or self.fan_in_fan_out or not isinstance(dropout, nn.Identity):
            return None
        assert isinstance(a, nn.Linear)
        assert isinstance(b, nn.Linear)
        scaling: float = self.scaling[active[0]]
        return None if self.lora_bias[active[0]] else _Parts(base.weight, base.bias, a.weight, b.weight, scaling)


class _Parts(NamedTuple):
    """What a layer computes with."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor
    b: Tensor
    scaling: float

    def are_exact_for(self, x: Tensor) -> bool:
        """Return whether the merged weight keeps the precision of the factors, and the base weights are frozen."""
        frozen = [self.weight] if self.bias is None else [self.weight, self.bias]
        parameters = [*frozen, self.a, self.b]
        return (
            x.dtype in (torch.float32, torch.float64)
            and all(parameter.dtype == x.dtype for parameter in parameters)
            and not any(parameter.requires_grad for parameter in frozen)
            and not any(parameter.is_inference() for parameter in parameters)
            and not (torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _MergedWeight:
    """A merged weight with what it was made of. A change of one of these in place is seen by its version.

    Attributes:
        value: W + scaling B A, without a gradient.
        scaling: factor of B A.
        parameters: W, A and B.
        data: the same without gradients, which keeps their memory from being used again.
        versions: how often each had been changed.
    """

    value: Tensor
    scaling: float
    parameters: tuple[Tensor, ...]
    data: tuple[Tensor, ...]
    versions: tuple[int, ...]

    @classmethod
    def of(cls, parts: _Parts) -> "_MergedWeight":
        """Merge W, A and B. The result can be used in a backward pass also if it is made in inference mode."""
        parameters = (parts.weight, parts.a, parts.b)
        with torch.inference_mode(mode=False), torch.no_grad():
            return cls(
                value=torch.addmm(parts.weight, parts.b, parts.a, alpha=parts.scaling),
                scaling=parts.scaling,
                parameters=parameters,
                data=tuple(parameter.detach() for parameter in parameters),
                versions=tuple(parameter._version for parameter in parameters),
            )

    def is_of(self, parts: _Parts) -> bool:
        """Return whether W, A, B and the scaling are those that were merged."""
        compared = zip((parts.weight, parts.a, parts.b), self.parameters, self.data, self.versions, strict=True)
        return self.scaling == parts.scaling and all(
            new is old and new.data_ptr() == data.data_ptr() and new._version == version
            for new, old, data, version in compared
        )


class _LowRankBackward(torch.autograd.Function):
    """The merged layer. The gradients of A and B are s B^T g^T x and s g^T x A^T, for the gradient g of the output."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, merged: _MergedWeight, layer: MergedLinear
    ) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, a, b, merged.value)
        ctx.scaling, ctx.layer = merged.scaling, layer
        return linear(x, merged.value, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer.forget()
        x, a, b, merged = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad[:3]
        rows, inputs = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        of_x = gradient @ merged if needs_x else None
        of_a = (rows @ (ctx.scaling * b)).T @ inputs if needs_a else None
        of_b = rows.T @ (inputs @ (ctx.scaling * a).T) if needs_b else None
        return of_x, of_a, of_b, None, None, None
