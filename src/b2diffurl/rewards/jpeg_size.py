"""How well JPEG compresses a picture: a reward without a model, good for a first look (DDPO, arXiv 2305.13301, 5.1).

The size of the picture as a JPEG of quality 95, in kilobytes of 1000 bytes, as DDPO's public code has it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from b2diffurl.images import to_pil

Aim = Literal["compressible", "incompressible"]
_QUALITY = 95
_BYTES_PER_KILOBYTE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class JPEGSize:
    """The size as a reward.

    Attributes:
        aim: "incompressible" gives the size, "compressible" minus the size.
    """

    aim: Aim

    def __call__(self, images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        """Kilobytes of each picture, minus for "compressible"; prompts do not matter."""
        del prompts
        sign = -1 if self.aim == "compressible" else 1
        sizes = [_num_bytes(to_pil(image)) / _BYTES_PER_KILOBYTE for image in images]
        return sign * torch.tensor(sizes, dtype=torch.float64)


def _num_bytes(image: Image.Image) -> int:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.tell()
