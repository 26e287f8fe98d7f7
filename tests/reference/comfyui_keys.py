"""The layers of a UNet's attention by the names that ComfyUI maps, as facts: `lora_unet_` and the path in underscores.

From comfy/lora.py (model_lora_keys_unet) and comfy/utils.py (unet_to_diffusers): a layer may be named by its path in
the original UNet, and by its path in diffusers' UNet. Its tensors end in .lora_down.weight, .lora_up.weight and .alpha.
"""

# Block and number of transformer blocks in it.
SD15_DIFFUSERS = {
    "down_blocks_0_attentions_0": 1, "down_blocks_0_attentions_1": 1,
    "down_blocks_1_attentions_0": 1, "down_blocks_1_attentions_1": 1,
    "down_blocks_2_attentions_0": 1, "down_blocks_2_attentions_1": 1,
    "mid_block_attentions_0": 1,
    "up_blocks_1_attentions_0": 1, "up_blocks_1_attentions_1": 1, "up_blocks_1_attentions_2": 1,
    "up_blocks_2_attentions_0": 1, "up_blocks_2_attentions_1": 1, "up_blocks_2_attentions_2": 1,
    "up_blocks_3_attentions_0": 1, "up_blocks_3_attentions_1": 1, "up_blocks_3_attentions_2": 1,
}  # fmt: skip
SDXL_ORIGINAL = {
    "input_blocks_4_1": 2, "input_blocks_5_1": 2, "input_blocks_7_1": 10, "input_blocks_8_1": 10,
    "middle_block_1": 10,
    "output_blocks_0_1": 10, "output_blocks_1_1": 10, "output_blocks_2_1": 10,
    "output_blocks_3_1": 2, "output_blocks_4_1": 2, "output_blocks_5_1": 2,
}  # fmt: skip
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out_0")
ENDINGS = (".lora_down.weight", ".lora_up.weight", ".alpha")


def attention_layers(blocks: dict[str, int]) -> set[str]:
    """Names of all attention projections of a UNet."""
    return {
        f"lora_unet_{block}_transformer_blocks_{index}_{attention}_{projection}"
        for block, depth in blocks.items()
        for index in range(depth)
        for attention in ("attn1", "attn2")
        for projection in PROJECTIONS
    }
