"""A direction in weight space: the mean displacement of the UNet's weights by trained adapters."""

# diffusers types its modules loosely.
# pyright: reportAttributeAccessIssue=false, reportUnknownMemberType=false

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from b2diffurl.errors import UserError
from b2diffurl.models.adapted_unet import AdaptedUNet


class Displacement:
    """The mean weight change of adapters, which can be applied to the weights of a model at any scale.

    An adapter adds scale * B A to the weight of a layer. These changes are averaged, and not A and B themselves, which
    depend on the adapter's initial weights: adapters of different seeds and ranks have comparable changes.

    Args:
        model: the network, without an adapter.
        changes: change of the weight of each layer, by name of the layer.
    """

    def __init__(self, model: AdaptedUNet, changes: dict[str, Tensor]) -> None:
        self._weights: list[tuple[nn.Parameter, Tensor]] = []
        for name, change in changes.items():
            weight = model.unet.get_submodule(name).weight
            assert isinstance(weight, nn.Parameter)
            self._weights.append((weight, change))

    @classmethod
    def mean_of(cls, model: AdaptedUNet, directories: Sequence[Path]) -> "Displacement":
        """Read adapters; the model has none before and after.

        Args:
            model: the network.
            directories: one adapter folder or more.

        Raises:
            UserError: a folder has no adapter for this model, or the weights are not float32, whose small changes the
                rounding of half precision would hide.
        """
        if model.unet.dtype != torch.float32:
            raise UserError(f"memory.base_dtype is {model.unet.dtype}; give float32 to measure a small change.")
        changes: dict[str, Tensor] = {}
        for directory in directories:
            model.load_lora(directory)
            for name, change in _changes(model).items():
                changes[name] = changes.get(name, torch.zeros_like(change)) + change / len(directories)
            model.unet.unload_lora()
        return cls(model, changes)

    @property
    def norm(self) -> float:
        """Euclidean norm of the change of all weights."""
        return sum(float((change.double() ** 2).sum()) for _, change in self._weights) ** 0.5

    @contextmanager
    def applied(self, scale: float) -> Generator[None]:
        """Return a context within which the weights are changed by `scale` times the displacement."""
        originals = [weight.data for weight, _ in self._weights]
        for weight, change in self._weights:
            weight.data = weight.data + scale * change
        try:
            yield
        finally:
            for (weight, _), original in zip(self._weights, originals, strict=True):
                weight.data = original


@torch.no_grad()
def _changes(model: AdaptedUNet) -> dict[str, Tensor]:
    """Return the weight change of each layer that has an adapter."""
    return {
        name: module.get_delta_weight(adapter).clone()
        for name, module in model.unet.named_modules()
        if isinstance(module, LoraLayer)
        for adapter in module.active_adapters
        if adapter in module.scaling
    }
