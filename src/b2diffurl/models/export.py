"""Export an adapter in the formats of diffusers and PEFT."""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from b2diffurl.models.adapter_interval import AdapterInterval, write_adapter_interval

PEFT_FOLDER = "peft"  # inside the diffusers folder, whose loader ignores subfolders


def save_adapter(
    unet: UNet2DConditionModel,
    directory: Path,
    *,
    adapter: str,
    pipeline: type[Any],
    model: str,
    interval: AdapterInterval | None = None,
) -> None:
    """Save an adapter for `pipe.load_lora_weights(directory)` and for `PeftModel.from_pretrained(unet, .../peft)`.

    Args:
        unet: UNet with the adapter.
        directory: output folder; created if missing.
        adapter: name of the adapter on the UNet.
        pipeline: diffusers pipeline class of the model.
        model: name of the base model, for the PEFT config.
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
        write_adapter_interval(directory, interval)
    folder = directory / PEFT_FOLDER
    folder.mkdir(exist_ok=True)
    tensors = {f"base_model.model.{name}": value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    before = config.base_model_name_or_path
    config.base_model_name_or_path = model
    config.save_pretrained(str(folder))
    config.base_model_name_or_path = before
