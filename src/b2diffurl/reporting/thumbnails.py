"""Sample images as `<img>` elements with data URIs."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from b2diffurl.run.records import read_image

MAX_SIDE_PX = 256
PIXEL_ART_SIDE_PX = 64
JPEG_QUALITY = 80


def image_html(path: Path | None, *, alt: str) -> str:
    """Embed one image, or an empty frame if there is none.

    Images of at most 64 pixels per side are stored exactly (PNG) and shown without smoothing. Larger ones become JPEG
    thumbnails of at most 256 pixels per side, which keeps the page small.
    """
    if path is None:
        return '<span class="no-image">no image</span>'
    buffer = BytesIO()
    image = read_image(path)
    is_pixel_art = max(image.size) <= PIXEL_ART_SIDE_PX
    if is_pixel_art:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
        image.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    image_format, style = ("png", ' class="pixel"') if is_pixel_art else ("jpeg", "")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img{style} src="data:image/{image_format};base64,{data}" alt="{escape(alt)}" '
        f'width="{image.width}" height="{image.height}" loading="lazy">'
    )
