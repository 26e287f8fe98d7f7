"""Conversion to 8 bits and back, and image grids."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from b2diffurl.images import from_pil, grid, to_pil


def flat(color: tuple[int, int, int], *, width: int = 3, height: int = 2) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def test_all_8_bit_values_survive_a_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    pixels = torch.stack([values, values.T, values.flip(0)])
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    assert to_pil(from_pil(image)).tobytes() == image.tobytes()


@given(value=st.floats(0, 1, width=32))
def test_values_are_rounded_not_truncated(value: float) -> None:
    red, green, blue = to_pil(torch.full((3, 1, 1), value)).getpixel((0, 0))  # pyright: ignore[reportGeneralTypeIssues]
    assert red == green == blue
    assert abs(red - 255 * value) <= 0.5 + 1e-4


@pytest.mark.parametrize(("value", "level"), [(-0.3, 0), (0.49 / 255, 0), (0.51 / 255, 1), (0.999, 255), (1.7, 255)])
def test_values_outside_the_range_are_clamped(value: float, level: int) -> None:
    assert to_pil(torch.full((3, 1, 1), value)).getpixel((0, 0)) == (level,) * 3


def test_rows_columns_and_channels_keep_their_order() -> None:
    image = torch.zeros(3, 2, 5)
    image[0, 1, 4] = 1.0
    converted = to_pil(image)
    assert converted.size == (5, 2)
    assert converted.getpixel((4, 1)) == (255, 0, 0)
    assert torch.equal(from_pil(converted), image)


def test_an_image_with_gradient_in_half_precision_is_accepted() -> None:
    image = torch.full((3, 1, 1), 0.5, dtype=torch.float16, requires_grad=True)
    assert to_pil(image).getpixel((0, 0)) == (128,) * 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes_are_converted_to_rgb(mode: str) -> None:
    image = from_pil(flat((255, 255, 255)).convert(mode))
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.float32
    assert torch.equal(image, torch.ones(3, 2, 3))


def test_a_grid_fills_rows_first() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = grid([flat(color) for color in colors], num_columns=2, gap_pixels=1)
    assert sheet.size == (2 * 4, 2 * 3)
    assert [sheet.getpixel(place) for place in ((0, 0), (4, 0), (0, 3))] == colors
    assert sheet.getpixel((3, 0)) == sheet.getpixel((0, 2)) == sheet.getpixel((4, 3)) == (255, 255, 255)


def test_a_grid_is_no_wider_than_its_images() -> None:
    assert grid([flat((0, 0, 0))], num_columns=8, gap_pixels=2).size == (5, 4)
