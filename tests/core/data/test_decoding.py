from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dim_ray.core.data.decoding import Decoder
from tests.helpers.written_images import encode, picture, pixels

GREY = pixels(1)[0, 0]


def decode(encoded: bytes, decoder: Decoder | None = None) -> NDArray[np.uint8]:
    """Return one image, (C, H, W)."""
    return (decoder or Decoder()).decode([encoded], lambda index: f"image {index}")[0]


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def layered(mode: str, drawing: int) -> Image.Image:
    """Return an image of one grey value, drawn only in its opacity."""
    values = np.full_like(GREY, drawing)
    return Image.fromarray(np.dstack([values] * (len(mode) - 1) + [GREY]), mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("drawing", [0, 128])
def test_what_is_drawn_in_opacity_only_is_seen_on_white(mode: str, drawing: int) -> None:
    image = decode(save(layered(mode, drawing), "PNG"))
    opacity = GREY / 255
    assert len(image) == len(mode) - 1
    np.testing.assert_allclose(image[0], drawing * opacity + 255 * (1 - opacity), atol=1)


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_colour_that_stands_for_transparency_becomes_white(mode: str) -> None:
    image = Image.fromarray(np.where(np.arange(64).reshape(8, 8) % 2, 0, 90).astype(np.uint8)).convert(mode)
    key = image.getpixel((0, 0))
    found = decode(save(image, "PNG", transparency=key))
    np.testing.assert_array_equal(found[0], np.where(np.arange(64).reshape(8, 8) % 2, 0, 255))


def test_opaque_images_stay_as_they_are_and_are_not_remarked_on() -> None:
    decoder = Decoder()
    colour = pixels(1, channels=3)[0]
    opaque = picture(colour)
    opaque.putalpha(255)
    np.testing.assert_array_equal(decode(encode(opaque), decoder), colour)
    assert decoder.remarks() == []


def test_transparent_and_animated_images_are_remarked_on() -> None:
    decoder = Decoder()
    decode(save(layered("LA", 0), "PNG"), decoder)
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        decode(save(frames[0], kind, save_all=True, append_images=frames[1:]), decoder)
    decode(save(frames[0], "MPO", save_all=True, append_images=frames[1:]), decoder)
    assert decoder.remarks() == [
        "transparent images, laid on white: 1 (image 0)",
        "images of several frames, of which the first is read: 4 (image 0, image 0, image 0 and 1 more)",
    ]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_images_are_turned_as_their_exif_data_say(kind: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[274] = orientation
    encoded = save(picture(pixels(1, channels=3)[0]), kind, exif=tags, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    np.testing.assert_array_equal(decode(encoded), expected.transpose(2, 0, 1))
