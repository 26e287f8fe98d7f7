"""JPEG size as a reward without a model (DDPO, arXiv 2305.13301, section 5.1).

The size of the image as a JPEG of quality 95, in kilobytes of 1000 bytes, as in DDPO's public code.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from b2diffurl.errors import UserError
from b2diffurl.images import to_pil
from b2diffurl.rewards.builtin import RewardKind, RewardSettings
from b2diffurl.rewards.facts import RewardFacts
from b2diffurl.rewards.spec import Term

Aim = Literal["compressible", "incompressible"]
_QUALITY = 95
_BYTES_PER_KILOBYTE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class JPEGSize:
    """The JPEG size as a reward.

    Attributes:
        aim: "incompressible" scores the size, "compressible" minus the size.
    """

    aim: Aim

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Return the kilobytes of each image, negated for "compressible"; prompts are ignored."""
        del prompts
        sign = -1 if self.aim == "compressible" else 1
        sizes = [_num_bytes(to_pil(image)) / _BYTES_PER_KILOBYTE for image in images]
        return sign * torch.tensor(sizes, dtype=torch.float64)


def _num_bytes(image: Image.Image) -> int:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.tell()


def _check(term: Term, _: RewardSettings) -> None:
    if term.rest not in get_args(Aim):
        raise UserError(f"reward is {term.name!r}; give 'jpeg-size:compressible' or 'jpeg-size:incompressible'.")


def _load(term: Term, _: RewardSettings, __: torch.device | str) -> JPEGSize:
    return JPEGSize(aim=cast("Aim", term.rest))


REWARD = RewardKind(
    forms="'jpeg-size:compressible'",
    check=_check,
    load=_load,
    facts=RewardFacts(
        summary="kilobytes as a JPEG",
        source="arXiv 2305.13301, section 5.1",
        license="none needed",
        note="jpeg-size:compressible or jpeg-size:incompressible",
    ),
)
