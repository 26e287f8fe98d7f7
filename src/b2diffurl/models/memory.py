"""What a run spends on memory: number formats and recomputation."""

from typing import Literal

from b2diffurl.config import settings

Weights = Literal["float32", "bfloat16", "float16"]


@settings
class Memory:
    """Smaller GPUs: half-size weights and recomputed activations.

    The adapter, latents, log-probs and decoding stay in float32 whatever is set here. In half precision the rounding
    of a forward pass depends on the shape of its batch, and guidance multiplies it: before the first update
    `policy/ratio_max_error` is then no 0 but that noise. docs/how-to-own-model.md has figures.

    Attributes:
        base_weights: number format of the UNet and the text encoders, which are frozen. "bfloat16" has float32's
            range; "float16" is for GPUs without it, its gradients are scaled into range.
        gradient_checkpointing: keep fewer activations and compute them again in the backward pass: about a third
            slower, same results.
    """

    base_weights: Weights = "float32"
    gradient_checkpointing: bool = False
