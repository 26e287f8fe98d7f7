"""Checks of a model on this machine before its weights are loaded: its chain, and the layers that an adapter names."""

# diffusers types its configs as dicts.
# pyright: reportArgumentType=false

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from b2diffurl.models.adapted_unet import adapted_layers, check_targets
from b2diffurl.models.lora import LoRA
from b2diffurl.models.model_files import config_location, loading
from b2diffurl.models.model_source import ModelSource
from b2diffurl.models.scheduler import check_chain

_FLOAT32_BYTES = 4


def check_model(
    source: ModelSource, *, num_inference_steps: int, eta: float, interval_length: int = 0, lora: LoRA | None = None
) -> None:
    """Check a model before it is loaded, if it is on this machine; a hub model is not checked.

    Args:
        source: the model.
        num_inference_steps: T.
        eta: weight of the noise.
        interval_length: length of the first interval that is trained; 0 for no training.
        lora: the adapter that will be trained; None for none.

    Raises:
        UserError: the scheduler is not supported, has too few timesteps, or adds no noise in the whole interval; or a
            target name of the adapter matches no layer.
    """
    check_chain(source, num_inference_steps=num_inference_steps, eta=eta, interval_length=interval_length)
    unet = _empty_unet(source) if lora is not None else None
    if lora is not None and unet is not None:
        check_targets(unet, lora)


def adapter_bytes(source: ModelSource, lora: LoRA) -> int:
    """Return the size of an adapter in float32; 0 for a model that is not on this machine."""
    unet = _empty_unet(source)
    layers = [] if unet is None else [layer for layers in adapted_layers(unet, lora).values() for layer in layers]
    sizes = [sum(layer.weight.shape[:2]) for layer in layers if isinstance(layer.weight, torch.Tensor)]
    return _FLOAT32_BYTES * lora.rank * sum(sizes)


def _empty_unet(source: ModelSource) -> UNet2DConditionModel | None:
    """Build the UNet of a model without memory for its weights; None if its config is not on this machine."""
    folder = Path(source.location if source.is_hub else config_location(source)) / "unet"
    if source.is_hub or not folder.is_dir():
        return None
    with loading(f"the UNet of model {source.name!r}"), torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, local_files_only=True))
    assert isinstance(unet, UNet2DConditionModel)
    return unet
