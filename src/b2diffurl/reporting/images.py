"""Sample pictures as `<img>` elements that carry their own data."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

MAX_SIDE_PX = 256
PIXEL_ART_SIDE_PX = 64
JPEG_QUALITY = 80


def picture_html(path: Path | None, *, alt: str) -> str:
    """Embed one picture, or an empty frame where there is none.

    Pictures of at most 64 pixels a side are kept exactly (PNG) and shown with hard pixel edges; larger ones become
    JPEG thumbnails of at most 256 pixels a side, so that a page of them stays small.
    """
    if path is None:
        return '<span class="no-picture">no picture</span>'
    buffer = BytesIO()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    is_pixel_art = max(picture.size) <= PIXEL_ART_SIDE_PX
    if is_pixel_art:
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
        picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    kind, style = ("png", ' class="pixel"') if is_pixel_art else ("jpeg", "")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img{style} src="data:image/{kind};base64,{data}" alt="{escape(alt)}" '
        f'width="{picture.width}" height="{picture.height}" loading="lazy">'
    )
