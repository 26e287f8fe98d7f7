"""What a run spends on memory: number formats and recomputation."""

from typing import Literal

from b2diffurl.config import settings

Weights = Literal["float32", "bfloat16", "float16"]
_PIXELS_AT_ONCE = 2**20  # about 4 GB for Stable Diffusion's autoencoder (ours)


@settings
class Memory:
    """Smaller GPUs: half-size weights and recomputed activations.

    The adapter, latents, log-probs and decoding stay in float32 whatever is set here. In half precision the rounding
    of a forward pass depends on the shape of its batch and on the last digit of the weights, and guidance multiplies
    it: `policy/ratio_max_error` is then no 0 before the first update, and part of `policy/kl_to_old` is that noise.
    docs/how-to-own-model.md has figures.

    Attributes:
        base_dtype: number format of the UNet and the text encoders, which are frozen. "float16" rounds 8 times finer
            than "bfloat16" and its gradients are scaled into range; "bfloat16" is for models that overflow in float16.
        gradient_checkpointing: keep fewer activations and compute them again in the backward pass: about a third
            slower, same results.
    """

    base_dtype: Weights = "float32"
    gradient_checkpointing: bool = False


def pictures_at_once(pixels: int) -> int:
    """How many pictures of so many pixels are decoded together: a megapixel of them, at most 64."""
    return max(1, min(64, _PIXELS_AT_ONCE // pixels))
