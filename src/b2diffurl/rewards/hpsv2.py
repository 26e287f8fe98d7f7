"""HPSv2: human preference, from a CLIP ViT-H/14 fine-tuned on choices between images (arXiv 2306.09341), in float32.

The cosine of image and prompt, without a factor, as `hpsv2/img_score.py` of the public code (tgxs002/HPSv2) returns it;
about 0.2 to 0.3. The public code computes in float16. Its checkpoints are open_clip's; the default here is a published
conversion to transformers, whose author reports equal embeddings. It is not a subclass of CLIPScore, which the
evaluation uses as a measure of alignment.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.clip import HUB_ID, CLIPScore
from b2diffurl.rewards.facts import GIB_PER_GB, RewardFacts
from b2diffurl.rewards.settings import HPSv2Settings
from b2diffurl.rewards.spec import Term, with_revision

_PROCESSOR = "openai/clip-vit-base-patch32"  # that of the card of the default model


class HPSv2:
    """A preference model as a reward.

    Args:
        settings: sources of model and processor.
        device: device of the model.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(self, settings: HPSv2Settings, *, device: torch.device | str = "cpu") -> None:
        is_local = Path(settings.model).is_dir()
        self._clip = CLIPScore(
            settings.model,
            device=device,
            processor=settings.processor or (None if is_local else _PROCESSOR),
            name="hpsv2",
            revision=settings.revision or "main",
        )

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Return the cosine of each image with its own prompt, -1 to 1."""
        return self._clip(images, prompts)


def _check(term: Term, settings: RewardSettings) -> None:
    own = with_revision(term, settings.hpsv2)
    if Path(own.model).is_dir():
        if own.revision:
            raise UserError(
                f"hpsv2.revision is {own.revision!r} but hpsv2.model is a local directory, which has none; leave it "
                "out."
            )
    elif not HUB_ID.fullmatch(own.model):
        raise UserError(f"hpsv2.model is {own.model!r}, which is not a directory; give a directory or a hub id.")
    elif not own.revision:
        raise UserError(
            f"reward is {term.name!r}, whose weights {own.model} need a revision: this package has verified none; "
            "give hpsv2.revision, a commit of that repository, or name the reward hpsv2@REVISION."
        )


def _load(term: Term, settings: RewardSettings, device: torch.device | str) -> HPSv2:
    return HPSv2(with_revision(term, settings.hpsv2), device=device)


REWARD = RewardKind(
    forms="'hpsv2@REVISION'",
    check=_check,
    load=_load,
    facts=RewardFacts(
        summary="human preference, CLIP ViT-H-14",
        source="arXiv 2306.09341; tgxs002/HPSv2",
        weights="adams-story/HPSv2-hf, size unknown (a conversion of xswu/HPSv2)",
        license="unknown (of the conversion); Apache-2.0 (of xswu/HPSv2)",
        download_gb=None,
        memory_gib=3.94 * GIB_PER_GB,  # the float32 weights of a ViT-H-14
        needs="a revision",
        table="hpsv2",
        note="hpsv2@REVISION with a commit of the repository; or a local directory as hpsv2.model",
    ),
)
