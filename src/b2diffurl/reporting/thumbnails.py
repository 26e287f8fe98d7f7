"""Images of a run as data URIs, with what is written below them."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from PIL import Image

from b2diffurl.run.records import read_image


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One image of the page; an empty frame if there is none.

    Attributes:
        label: what is written below it, such as "round 10".
        alt: its description.
        src: data URI, or "".
        width: pixels of the embedded image.
        height: pixels of the embedded image.
        is_pixel_art: whether it is enlarged without smoothing.
        reward: its reward as text, or "".
        is_right: what a judge decides on it; None if none does.
        mark: "best" or "worst" of its branch group, or "".
    """

    label: str
    alt: str
    src: str = ""
    width: int = 0
    height: int = 0
    is_pixel_art: bool = False
    reward: str = ""
    is_right: bool | None = None
    mark: str = ""


def frame(
    image: Path | Image.Image | None,
    *,
    label: str,
    alt: str,
    reward: str = "",
    is_right: bool | None = None,
    mark: str = "",
) -> Frame:
    """Embed one image: a file, an image, or None for an empty frame.

    Raises:
        UserError: the file cannot be read.
    """
    if image is None:
        return Frame(label=label, alt=alt)
    whole = read_image(image) if isinstance(image, Path) else image
    images = import_module("b2diffurl.images")  # it imports torch
    longest = max(whole.size)
    scale = min(1.0, 256 / longest)
    return Frame(
        label=label,
        alt=alt,
        src=images.to_data_uri(whole),
        width=max(1, round(whole.width * scale)),
        height=max(1, round(whole.height * scale)),
        is_pixel_art=longest <= images.PIXEL_ART_SIDE_PX,
        reward=reward,
        is_right=is_right,
        mark=mark,
    )
