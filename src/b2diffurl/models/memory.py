"""Precision of the frozen weights, gradient checkpointing, and the batch size of decoding."""

from typing import Literal

from b2diffurl.config import settings

ConcreteDtype = Literal["float32", "bfloat16", "float16"]
Weights = Literal["auto", "float32", "bfloat16", "float16"]
_PIXELS_PER_DECODE = 2**20  # about 4 GB for Stable Diffusion's autoencoder (ours)


@settings(table="memory")
class Memory:
    """Options for smaller GPUs: half-precision weights and gradient checkpointing.

    The adapter, latents, log-probs and decoding always stay in float32. In half precision the rounding of a forward
    pass depends on the batch shape and on the last digit of the weights, and guidance amplifies it. Therefore
    `policy/ratio_max_error` is not 0 before the first update, and `policy/kl_to_old` includes this noise.
    docs/how-to-own-model.md has figures.

    Attributes:
        base_dtype: dtype of the frozen UNet and text encoders. "auto" is float32 on CPU and mps, and for the embedded
            model; on CUDA it is float16, or bfloat16 for models that overflow in float16. A run keeps the dtype that it
            began with. "float16" rounds 8 times finer than "bfloat16", and its gradients are scaled into range.
        gradient_checkpointing: recompute activations in the backward pass instead of storing them; about a third
            slower, same results.
    """

    base_dtype: Weights = "auto"
    gradient_checkpointing: bool = False


def decode_batch_size(pixels: int) -> int:
    """Number of images that are decoded together: a megapixel, at most 64 images.

    Args:
        pixels: pixels per image.
    """
    return max(1, min(64, _PIXELS_PER_DECODE // pixels))
