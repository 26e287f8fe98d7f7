"""Writes an adapter in the two forms that other code loads."""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

PEFT_FOLDER = "peft"  # beside the diffusers form, whose loader looks at no folders


def save_adapter(unet: UNet2DConditionModel, directory: Path, *, adapter: str, pipeline: type[Any], model: str) -> None:
    """Write an adapter for `pipe.load_lora_weights(directory)` and for `PeftModel.from_pretrained(unet, .../peft)`.

    Args:
        unet: that has the adapter.
        directory: made if it is not there.
        adapter: its name on the UNet.
        pipeline: the stock pipeline class of the model.
        model: the base model's name, for PEFT's config.
    """
    config = unet.peft_config[adapter]
    state = get_peft_model_state_dict(unet, adapter_name=adapter)
    told = {key: value for key, value in config.to_dict().items() if key in ("r", "lora_alpha", "lora_dropout", "bias")}
    told["target_modules"] = sorted(config.target_modules)
    pipeline.save_lora_weights(
        directory, unet_lora_layers=convert_state_dict_to_diffusers(dict(state)), unet_lora_adapter_metadata=told
    )
    folder = directory / PEFT_FOLDER
    folder.mkdir(exist_ok=True)
    tensors = {f"base_model.model.{name}": value.contiguous() for name, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    before = config.base_model_name_or_path
    config.base_model_name_or_path = model
    config.save_pretrained(str(folder))
    config.base_model_name_or_path = before
