"""Bytes that the backward pass keeps per image, for full-size UNets, counted without weights, download or GPU.

The networks are on the meta device, with shapes only. Tensors that autograd saves are counted once per storage, without
frozen weights; attention counts as a fused kernel (queries, keys, values, output). `b2diffurl plan` uses these numbers.

    python benchmarks/activations.py
"""

# diffusers annotates configs as dicts, and a module's `to` by its first argument.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import argparse
import os
from typing import Any

import torch

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "block_out_channels": (320, 640, 1280, 1280),
    },
    "sd2": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280, 1280),
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


class FusedAttention(torch.autograd.Function):
    """Save the tensors that a fused kernel saves; the values do not matter on the meta device."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        assert len(gradients) == 1
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


def saved_bytes(family: str, *, dtype: torch.dtype, checkpointing: bool, batch_size: int) -> tuple[int, int]:
    """Count the bytes that the backward pass keeps and the parameters of the network."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIGS[family]).to(dtype).requires_grad_(False)
        unet.add_adapter(LoraConfig(r=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        unet.train()  # diffusers checkpoints in training mode only
        if checkpointing:
            unet.enable_gradient_checkpointing()
        size, width = unet.config.sample_size, unet.config.cross_attention_dim
        added = {"text_embeds": torch.empty(batch_size, 1280, dtype=dtype), "time_ids": torch.empty(batch_size, 6)}
        known = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                storages[storage._cdata] = storage.nbytes()
                kept.append(tensor)  # otherwise the address of its storage is reused
            return tensor

        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            unet(
                torch.empty(batch_size, 4, size, size, dtype=dtype),
                torch.zeros(batch_size, dtype=torch.long),
                encoder_hidden_states=torch.empty(batch_size, 77, width, dtype=dtype),
                added_cond_kwargs=added if family == "sdxl" else None,
            )
    return sum(storages.values()), sum(parameter.numel() for parameter in unet.parameters())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.nn.functional.scaled_dot_product_attention = lambda query, key, value, **_: FusedAttention.apply(
        query, key, value
    )
    print("| UNet | parameters | dtype | checkpointing | MiB kept per image |\n|---|---|---|---|---|")
    for family in CONFIGS:
        for dtype in (torch.float32, torch.bfloat16):
            for checkpointing in (False, True):
                one, parameters = saved_bytes(family, dtype=dtype, checkpointing=checkpointing, batch_size=1)
                two, _ = saved_bytes(family, dtype=dtype, checkpointing=checkpointing, batch_size=2)
                name = str(dtype).removeprefix("torch.")
                print(f"| {family} | {parameters:,} | {name} | {checkpointing} | {(two - one) / 2**20:,.0f} |")


if __name__ == "__main__":
    main()
