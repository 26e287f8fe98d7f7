"""Export an adapter in the three forms that tools read: diffusers', PEFT's, and with kohya's names."""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from b2diffurl.models.adapter_files import DIFFUSERS_FILE, KOHYA_FILE, PEFT_FILE, PEFT_FOLDER
from b2diffurl.models.adapter_interval import AdapterInterval, interval_metadata, write_adapter_interval
from b2diffurl.models.kohya import kohya_metadata, kohya_tensors

_READABLE = 0o644  # safetensors writes files that their owner alone can read


def save_adapter(
    unet: UNet2DConditionModel,
    directory: Path,
    *,
    adapter: str,
    pipeline: type[Any],
    model: str,
    prediction_type: str,
    interval: AdapterInterval | None = None,
) -> None:
    """Save an adapter in three forms, which everyone can read.

    `pipe.load_lora_weights(directory)`, `PeftModel.from_pretrained(unet, directory / "peft")`, and
    b2diffurl_kohya.safetensors for ComfyUI, A1111 and Forge.

    Args:
        unet: UNet with the adapter.
        directory: output folder; created if missing.
        adapter: name of the adapter on the UNet.
        pipeline: diffusers pipeline class of the model.
        model: name of the base model, for the PEFT config and kohya's metadata.
        prediction_type: what the network predicts, for kohya's metadata.
        interval: the steps in which the adapter has to be on; None for all.
    """
    config = unet.peft_config[adapter]
    state = get_peft_model_state_dict(unet, adapter_name=adapter)
    metadata = {
        key: value for key, value in config.to_dict().items() if key in ("r", "lora_alpha", "lora_dropout", "bias")
    }
    metadata["target_modules"] = sorted(config.target_modules)
    pipeline.save_lora_weights(
        directory, unet_lora_layers=convert_state_dict_to_diffusers(dict(state)), unet_lora_adapter_metadata=metadata
    )
    if interval is not None:
        write_adapter_interval(directory / DIFFUSERS_FILE, interval)
    save_file(
        kohya_tensors(state, alpha=config.lora_alpha, unet=unet, pipeline=pipeline),
        directory / KOHYA_FILE,
        metadata=interval_metadata(interval)
        | kohya_metadata(
            rank=config.r, alpha=config.lora_alpha, model=model, unet=unet, prediction_type=prediction_type
        ),
    )
    _save_for_peft(state, config, directory / PEFT_FOLDER, model=model, interval=interval)
    make_readable(directory)


def make_readable(directory: Path) -> None:
    """Let everyone read the weights below a folder."""
    for file in directory.rglob("*.safetensors"):
        file.chmod(_READABLE)


def _save_for_peft(
    state: Mapping[str, Tensor], config: LoraConfig, folder: Path, *, model: str, interval: AdapterInterval | None
) -> None:
    """Save the adapter as PEFT does, with the name of the base model."""
    folder.mkdir(exist_ok=True)
    tensors = {f"base_model.model.{name}": value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / PEFT_FILE, metadata={"format": "pt"} | interval_metadata(interval))
    before = config.base_model_name_or_path
    config.base_model_name_or_path = model
    config.save_pretrained(str(folder))
    config.base_model_name_or_path = before
