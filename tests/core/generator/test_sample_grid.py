from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dim_ray.core.generator.sample_grid import sample_grid


def draw(images: Tensor, names: list[str]) -> NDArray[np.uint8]:
    png = sample_grid(images, names)
    assert png.startswith(b"\x89PNG")
    picture = Image.open(io.BytesIO(png))
    assert picture.mode == "RGB"
    return np.asarray(picture)


def make_images(num_classes: int, num_images: int, channels: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_classes, num_images, channels, size, size), dtype=torch.uint8, generator=rng)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "tile"), [(8, 64), (9, 63), (28, 56), (32, 64), (33, 33), (64, 64)])
def test_every_image_is_in_the_row_of_its_class_enlarged_by_a_whole_factor(channels: int, size: int, tile: int) -> None:
    images = make_images(3, 2, channels, size)
    picture = draw(images, ["cat", "dog", "a bird"])
    height, width, _ = picture.shape
    cell = tile + 4
    margin = width - 2 * cell
    assert height == 4 + 3 * cell
    assert 8 < margin < 100
    for row in range(3):
        for column in range(2):
            top, left = 4 + row * cell, margin + column * cell
            found = picture[top : top + tile, left : left + tile]
            expected = images[row, column].permute(1, 2, 0).numpy().repeat(tile // size, 0).repeat(tile // size, 1)
            assert np.array_equal(found, np.broadcast_to(expected, found.shape))
    assert (picture[4 + tile : 4 + cell, margin:] == 255).all(), "the gap between two rows is not empty"


def test_each_name_is_beside_its_row_and_not_over_the_images() -> None:
    images = make_images(2, 3, 1, 8)
    named, nameless = draw(images, ["wide name", "x"]), draw(images, ["wide name", ""])
    assert named.shape == nameless.shape
    margin = named.shape[1] - 3 * 68
    changed = (named != nameless).any(axis=2)
    assert changed[72:, :margin].any()
    assert not changed[:72].any()
    assert not changed[:, margin:].any()
    first_row = (named[4:68, :margin] != 255).any(axis=2)
    assert first_row.any()
    assert not first_row[:, -4:].any(), "the name touches the images"


def test_long_name_is_cut_and_leaves_room_for_the_images() -> None:
    images = make_images(2, 3, 3, 32)
    picture = draw(images, ["internationalisation " * 30, "dog"])
    assert picture.shape[1] < 3 * 68 + 400
    assert np.array_equal(picture, draw(images, ["internationalisation " * 10, "dog"]))
    assert not np.array_equal(picture, draw(images, ["internationalisation", "dog"]))


@pytest.mark.parametrize("name", ["", "two\nlines", "tab\there", "Überraschung", "猫", "<b>&amp;</b>", "\N{CAT FACE}"])
def test_any_name_can_be_drawn(name: str) -> None:
    picture = draw(make_images(2, 1, 1, 8), [name, "dog"])
    assert picture.shape[0] == 4 + 2 * 68


def test_same_images_make_the_same_file() -> None:
    images = make_images(2, 2, 3, 8)
    assert sample_grid(images, ["a", "b"]) == sample_grid(images.clone(), ["a", "b"])
