"""Conversion between float tensors, 8-bit PIL images and data URIs. Rounding to 8 bits happens only here.

Shapes: an image is 3 x H x W, float, in [0, 1].
"""

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

PIXEL_ART_SIDE_PX = 64
_MAX_SIDE_PX = 256
_JPEG_QUALITY = 80


def to_pil(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """Convert a tensor to a PIL image, clamped to [0, 1] and rounded to 8 bits.

    >>> to_pil(torch.full((3, 1, 1), 0.999)).getpixel((0, 0))
    (255, 255, 255)
    """
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def from_pil(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """Convert a PIL image to a float tensor in [0, 1]."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_data_uri(image: Image.Image) -> str:
    """Encode an image for a page that loads nothing.

    Images of at most 64 pixels per side are stored exactly (PNG). Larger ones become JPEG thumbnails of at most 256
    pixels per side, which keeps the page small.
    """
    buffer = BytesIO()
    is_pixel_art = max(image.size) <= PIXEL_ART_SIDE_PX
    if is_pixel_art:
        image.save(buffer, format="PNG", optimize=True)
    else:
        small = image.copy()
        small.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
        small.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{'png' if is_pixel_art else 'jpeg'};base64,{data}"


def grid(images: Sequence[Image.Image], *, num_columns: int, gap_pixels: int = 2) -> Image.Image:
    """Arrange images of equal size in a grid, row by row."""
    width, height = images[0].size
    num_columns = min(num_columns, len(images))
    num_rows = -(-len(images) // num_columns)
    sheet = Image.new("RGB", (num_columns * (width + gap_pixels), num_rows * (height + gap_pixels)), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % num_columns * (width + gap_pixels), index // num_columns * (height + gap_pixels)))
    return sheet
