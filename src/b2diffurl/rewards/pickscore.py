"""PickScore: human preference, from a `CLIPModel` fine-tuned on choices between images (arXiv 2305.01569), in float32.

cosine(image, prompt) * exp(logit_scale), as in its model card; about 20 for its ViT-H-14. It is not a subclass of
CLIPScore, which the evaluation uses as a measure of alignment.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.clip import VIT_H_14, CLIPScore, check_clip_term
from b2diffurl.rewards.facts import GIB_PER_GB, RewardFacts
from b2diffurl.rewards.spec import Term

PICKSCORE_V1 = "yuvalkirstain/PickScore_v1"


class PickScore:
    """A preference model as a reward.

    Args:
        model: a hub id, or a local directory in transformers format with its processor. The published model has no
            processor and uses that of the CLIP model it was fine-tuned from.
        device: device of the model.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, model: str = PICKSCORE_V1, *, device: torch.device | str = "cpu") -> None:
        processor = VIT_H_14 if model == PICKSCORE_V1 else model
        self._clip = CLIPScore(model, processor=processor, device=device, name=f"pickscore:{model}")

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Return the scaled cosine of each image with its own prompt."""
        return self._clip(images, prompts) * self._clip.clip.logit_scale.exp().cpu()


def _load(term: Term, _: RewardSettings, device: torch.device | str) -> PickScore:
    return PickScore(term.rest or PICKSCORE_V1, device=device)


REWARD = RewardKind(
    forms="'pickscore'",
    check=check_clip_term,
    load=_load,
    facts=RewardFacts(
        summary="human preference, CLIP ViT-H-14",
        source="arXiv 2305.01569",
        weights=f"{PICKSCORE_V1}, 3.94 GB",
        download_gb=3.94,
        memory_gib=3.94 * GIB_PER_GB,
        note="pickscore, or pickscore:MODEL with a directory or hub id of such a model",
    ),
)
