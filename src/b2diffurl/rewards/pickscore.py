"""PickScore: what people prefer, from a `CLIPModel` tuned on their choices (arXiv 2305.01569), in float32.

cosine(picture, prompt) * exp(logit_scale), as its model card computes it; about 20 for its ViT-H-14. A reward of its
own, no kind of CLIPScore, which the evaluation takes for a measure of alignment.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.rewards.clip import VIT_H_14, CLIPScore

PICKSCORE_V1 = "yuvalkirstain/PickScore_v1"


class PickScore:
    """A preference model as a reward.

    Args:
        model: a hub id, or a local directory in transformers format with its processor. The published model has no
            processor of its own and takes that of the CLIP it was tuned from.
        device: where it runs.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, model: str = PICKSCORE_V1, *, device: torch.device | str = "cpu") -> None:
        processor = VIT_H_14 if model == PICKSCORE_V1 else model
        self._clip = CLIPScore(model, processor=processor, device=device, name=f"pickscore:{model}")

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Scaled cosine of each picture with its own prompt."""
        return self._clip(images, prompts) * self._clip.clip.logit_scale.exp().cpu()
