"""Kohya's names of an adapter's weights, which ComfyUI, A1111, Forge and InvokeAI read.

A layer is `lora_unet_` and the path of its module with underscores, followed by `.lora_down.weight`, `.lora_up.weight`
and `.alpha`. The module's path is diffusers' for Stable Diffusion 1.x and 2.x, and that of the original code for XL, as
kohya's trainer names them. ComfyUI and A1111 map both.
"""

# diffusers types its configs as dicts.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

_TOP = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_IN_BLOCK = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
_POSITIONS = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}  # within a block, in XL's UNet
# (channels, width of the text conditioning) of the UNets whose version kohya's tools know.
_VERSIONS = {
    ((320, 640, 1280, 1280), 768): "sd_v1",
    ((320, 640, 1280, 1280), 1024): "sd_v2",
    ((320, 640, 1280), 2048): "sdxl_base_v1-0",
}


def kohya_tensors(
    state: Mapping[str, Tensor], *, alpha: float, unet: UNet2DConditionModel, pipeline: type[Any]
) -> dict[str, Tensor]:
    """Rename the weights of an adapter, and add alpha to each layer.

    `diffusers.utils.convert_state_dict_to_kohya` writes the rank as alpha, which is another strength if they differ.

    Args:
        state: weights with PEFT's names, such as `mid_block.attentions.0.proj_in.lora_A.weight`.
        alpha: numerator of the adapter's scale.
        unet: the network, for the layout of its blocks.
        pipeline: diffusers pipeline class of the model.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        module, _, half = name.removesuffix(".weight").rpartition(".lora_")
        layer = kohya_layer(module, unet=unet, pipeline=pipeline)
        tensors[f"{layer}.lora_{'down' if half == 'A' else 'up'}.weight"] = value.contiguous()
        tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
    return tensors


def kohya_layer(module: str, *, unet: UNet2DConditionModel, pipeline: type[Any]) -> str:
    """Return kohya's name of a layer of a UNet.

    Args:
        module: path of the module in diffusers' UNet.
        unet: the network.
        pipeline: diffusers pipeline class of the model.
    """
    if issubclass(pipeline, StableDiffusionXLPipeline):
        module = original_path(module, layers_per_block=unet.config.layers_per_block)
    return "lora_unet_" + module.replace(".", "_")


def original_path(module: str, *, layers_per_block: int) -> str:
    """Return the path of a module in the UNet of the original code of Stable Diffusion XL.

    Args:
        module: path of the module in diffusers' UNet.
        layers_per_block: number of residual layers per down block.

    >>> original_path("down_blocks.1.attentions.0.proj_in", layers_per_block=2)
    'input_blocks.4.1.proj_in'
    >>> original_path("up_blocks.0.resnets.2.conv1", layers_per_block=2)
    'output_blocks.2.0.in_layers.2'
    """
    if module in _TOP:
        return _TOP[module]
    side, *parts = module.split(".")
    if side == "mid_block":
        kind, index, *rest = parts
        block = f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}"
    else:
        level, kind, index, *rest = parts
        layer = layers_per_block if kind in ("downsamplers", "upsamplers") else int(index)
        place = int(level) * (layers_per_block + 1) + layer
        block = f"input_blocks.{place + 1}" if side == "down_blocks" else f"output_blocks.{place}"
        block = f"{block}.{_POSITIONS[kind]}"
    names = _IN_BLOCK if kind == "resnets" else {"conv": "op"} if kind == "downsamplers" else {}
    return ".".join([block, *(names.get(part, part) for part in rest)])


def kohya_metadata(
    *, rank: int, alpha: float, model: str, unet: UNet2DConditionModel, prediction_type: str
) -> dict[str, str]:
    """Return the metadata that kohya's tools, A1111 and Forge show and use to recognize the base model.

    The version of the base model is left out if the UNet is none that they know.

    Args:
        rank: rank of the adapter.
        alpha: numerator of its scale.
        model: name of the base model.
        unet: the network.
        prediction_type: what the network predicts, "epsilon" or "v_prediction".
    """
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_sd_model_name": model,
    }
    version = _VERSIONS.get((tuple(unet.config.block_out_channels), unet.config.cross_attention_dim))
    if version is not None:
        is_v = prediction_type == "v_prediction"
        is_xl = version.startswith("sdxl")
        metadata["ss_base_model_version"] = f"{version}_v" if is_v and not is_xl else version
        metadata |= {"ss_v2": str(version == "sd_v2"), "ss_v_parameterization": str(is_v)}
    return metadata
