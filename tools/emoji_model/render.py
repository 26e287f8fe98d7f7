"""Parts of a rendered scene: backgrounds of the styles, Noto Color Emoji sprites, and what places them on 32x32 images.

The font is that of the Debian package fonts-noto-color-emoji (SIL Open Font License 1.1).

A canvas is a float32 array of shape (32, 32, 3). Sprites are float32 arrays (h, w, 4), premultiplied RGBA in [0, 1].
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from b2diffurl.errors import UserError

SIZE = 32
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_FONT_PIXELS = 109  # the only bitmap size of this font
_JITTER = 1
LUMINANCE = (0.299, 0.587, 0.114)
_PASTELS = np.array(
    [[1.0, 0.85, 0.85], [1.0, 0.95, 0.75], [0.85, 1.0, 0.85], [0.85, 0.93, 1.0], [0.93, 0.85, 1.0], [1.0, 0.88, 0.72]],
    dtype=np.float32,
)


def emoji_of(*pairs: tuple[Sequence[str], str]) -> dict[str, str]:
    """Return the emoji of each name, from names and their emoji in the same order, separated by spaces."""
    return {name: emoji for names, glyphs in pairs for name, emoji in zip(names, glyphs.split(), strict=True)}


def check_font() -> None:
    """Check that the emoji font is installed.

    Raises:
        UserError: it is not.
    """
    if not FONT.is_file():
        raise UserError(f"The font {FONT} was not found; install the Debian package fonts-noto-color-emoji.")


@cache
def sprite(emoji: str, pixels: int) -> np.ndarray:
    """Render an emoji; its longer side has `pixels` pixels."""
    font = ImageFont.truetype(str(FONT), _FONT_PIXELS)
    glyph = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(glyph).text((10, 10), emoji, font=font, embedded_color=True)
    box = glyph.getbbox()
    assert box is not None, f"the font has no glyph for {emoji}"
    glyph = glyph.crop(box)
    scale = pixels / max(glyph.size)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    rgba = np.asarray(glyph.resize(size, Image.Resampling.LANCZOS), dtype=np.float32) / 255
    return np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)


def rgb(values: tuple[float, float, float]) -> np.ndarray:
    """Return a color, or weights of the three channels, as an array."""
    return np.array(values, dtype=np.float32)


def background(style: str, rng: np.random.Generator) -> np.ndarray:
    """Make a canvas with the background of a style."""
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    if style == "cartoon":  # one plain pastel color
        canvas[:] = _PASTELS[rng.integers(len(_PASTELS))]
    elif style == "landscape":  # sky above grass, with noise
        horizon = int(rng.integers(14, 19))
        sky = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
        canvas[:horizon] = rgb((0.35, 0.62, 0.95)) * (1 - sky) + rgb((0.8, 0.92, 1.0)) * sky
        canvas[horizon:] = rgb((0.33, 0.62, 0.24))
        canvas += rng.normal(0, 0.03, (SIZE, SIZE, 1)).astype(np.float32)
    elif style == "sketch":  # paper
        canvas[:] = 0.93
    else:  # night: dark blue with stars
        canvas[:] = rgb((0.05, 0.06, 0.2))
        stars = rng.integers(0, SIZE, (10, 2))
        canvas[stars[:, 0], stars[:, 1]] = rng.uniform(0.6, 1.0, (10, 1))
    return canvas


def paste(canvas: np.ndarray, patch: np.ndarray, center: tuple[int, int], rng: np.random.Generator | None) -> None:
    """Place a sprite with its center (x, y) at most one pixel from the given one, and inside the canvas.

    Args:
        canvas: receives the sprite.
        patch: the sprite.
        center: x and y in pixels.
        rng: varies the center; None places the sprite exactly there.
    """
    height, width = patch.shape[:2]
    dx, dy = (0, 0) if rng is None else rng.integers(-_JITTER, _JITTER + 1, 2)
    left = int(np.clip(center[0] + dx - width // 2, 0, SIZE - width))
    top = int(np.clip(center[1] + dy - height // 2, 0, SIZE - height))
    region = canvas[top : top + height, left : left + width]
    region *= 1 - patch[..., 3:]
    region += patch[..., :3]


def choose_size(pixels: tuple[int, ...], rng: np.random.Generator | None) -> int:
    """Choose the size of a sprite; the largest without a generator."""
    return pixels[-1] if rng is None else int(rng.choice(pixels))


def finish(canvas: np.ndarray, style: str, *, keep_color: bool = False) -> np.ndarray:
    """Apply the tone of a style: gray in sketch unless `keep_color`, darker at night.

    Returns:
        uint8 image, shape (32, 32, 3).
    """
    if style == "sketch" and not keep_color:
        canvas[:] = (canvas @ rgb(LUMINANCE))[..., None]
    elif style == "night":
        canvas *= rgb((0.8, 0.8, 0.95))
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
