"""The vectorised augmentation against a plain one, image by image, and what its users rely on."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import DSA_OPERATIONS
from dim_ray.core.data import augment as module
from dim_ray.core.data.augment import OPERATIONS, augment, augment_parts, draw_augmentation
from dim_ray.errors import ConfigError

ALL = "color|crop|cutout|flip|scale|rotate"
PAPER = "flip+color+crop|scale|rotate+cutout"
RARE = "color@0.3+crop|flip@0.6"
SHAPES = ((3, 8), (1, 9), (3, 9), (1, 28))  # channels, pixels


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(images: Tensor, strategy: str, rng: torch.Generator, *, shared: bool) -> Tensor:
    return draw_augmentation(strategy, rng)(images) if shared else augment(images, strategy, rng)


def pictures(batch: int, channels: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=rng(99), dtype=torch.float64).to(dtype)


def reference(images: Tensor, strategy: str, rng: torch.Generator, *, shared: bool) -> Tensor:
    """The published operations, one image and one operation after the other."""
    steps = [] if strategy == "none" else [step.partition("@") for step in strategy.split("+")]
    num_draws = 0
    for names, _, probability in steps:
        operations = names.split("|")
        num_draws += bool(probability) + (len(operations) > 1) + sum(OPERATIONS[name].num_draws for name in operations)
    uniforms = torch.rand(num_draws, 1 if shared else len(images), generator=rng).tolist()
    changed = []
    for index, image in enumerate(images):
        own = [row[0 if shared else index] for row in uniforms]
        for names, _, probability in steps:
            operations = names.split("|")
            is_applied = not probability or own.pop(0) < float(probability)
            chosen = operations[int(own.pop(0) * len(operations))] if len(operations) > 1 else names
            for name in operations:
                draws, own = own[: OPERATIONS[name].num_draws], own[OPERATIONS[name].num_draws :]
                if is_applied and name == chosen:
                    image = SLOW[name](image, *draws)
        changed.append(image)
    return torch.stack(changed)


def slow_color(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    image = image + (brightness - 0.5)
    mean = image.mean(0)
    image = (image - mean) * (2.0 * saturation) + mean
    return (image - image.mean()) * (contrast + 0.5) + image.mean()


def slow_crop(image: Tensor, down: float, right: float) -> Tensor:
    size = image.shape[1]
    most = int(0.125 * size + 0.5)
    down, right = int(down * (2 * most + 1)), int(right * (2 * most + 1))
    padded = torch.zeros(image.shape[0], size + 2 * most, size + 2 * most, dtype=image.dtype)
    padded[:, most : most + size, most : most + size] = image
    return padded[:, down : down + size, right : right + size]


def slow_cutout(image: Tensor, y: float, x: float) -> Tensor:
    size = image.shape[1]
    side = int(0.5 * size + 0.5)
    first_y, first_x = (int(draw * (size + 1 - side % 2)) - side // 2 for draw in (y, x))
    image = image.clone()
    for row in range(max(first_y, 0), min(first_y + side, size)):
        for column in range(max(first_x, 0), min(first_x + side, size)):
            image[:, row, column] = 0
    return image


def slow_flip(image: Tensor, coin: float) -> Tensor:
    return image.flip(2) if coin < 0.5 else image


def slow_affine(image: Tensor, matrix: list[list[float]]) -> Tensor:
    theta = torch.tensor([matrix], dtype=image.dtype)
    grid = F.affine_grid(theta, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, align_corners=False)[0]


def slow_scale(image: Tensor, x: float, y: float) -> Tensor:
    x, y = (1 / 1.2 + draw * (1.2 - 1 / 1.2) for draw in (x, y))
    return slow_affine(image, [[x, 0, 0], [0, y, 0]])


def slow_rotate(image: Tensor, draw: float) -> Tensor:
    angle = (draw - 0.5) * 2 * 15 / 180 * math.pi
    return slow_affine(image, [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])


SLOW = {
    "color": slow_color,
    "crop": slow_crop,
    "cutout": slow_cutout,
    "flip": slow_flip,
    "rotate": slow_rotate,
    "scale": slow_scale,
}


def test_every_operation_that_the_configuration_allows_exists() -> None:
    assert sorted(OPERATIONS) == sorted(DSA_OPERATIONS)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "strategy", [*DSA_OPERATIONS, ALL, PAPER, RARE, "color|crop", "crop+flip+cutout", "+".join(DSA_OPERATIONS)]
)
def test_whole_batches_get_what_the_plain_loop_gives(strategy: str, shared: bool) -> None:
    for seed, shape in enumerate(SHAPES):
        images = pictures(13, *shape)
        fast = augmented(images, strategy, rng(seed), shared=shared)
        slow = reference(images.double(), strategy, rng(seed), shared=shared).float()
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=2e-5)
        assert fast.dtype == images.dtype
        assert fast.shape == images.shape


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("strategy", ["crop", "flip", "cutout", "crop|flip|cutout", "crop+flip+cutout"])
def test_moved_and_blanked_pixels_keep_their_exact_values(strategy: str, shared: bool) -> None:
    images = pictures(32, 3, 15)
    assert torch.equal(
        augmented(images, strategy, rng(5), shared=shared), reference(images, strategy, rng(5), shared=shared)
    )


@pytest.mark.parametrize("strategy", [ALL, PAPER, RARE, "color|crop|flip"])
@pytest.mark.parametrize("shared", [True, False])
def test_choices_unknown_to_the_host_give_the_same_images(
    strategy: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of a device's random stream, run here on the CPU."""
    images = pictures(24, 3, 16)
    on_host = augmented(images, strategy, rng(3), shared=shared)
    monkeypatch.setattr(module, "_is_on_host", lambda uniforms: False)
    torch.testing.assert_close(augmented(images, strategy, rng(3), shared=shared), on_host, rtol=0, atol=1e-6)


def test_none_returns_the_images_and_draws_nothing() -> None:
    images, stream = pictures(4, 1, 8), rng()
    before = stream.get_state()
    assert augment(images, "none", stream) is images
    assert torch.equal(stream.get_state(), before)


@pytest.mark.parametrize("shared", [True, False])
def test_the_same_seed_gives_the_same_images_and_another_seed_others(shared: bool) -> None:
    images = pictures(16, 3, 16)
    first, again, other = (augmented(images, ALL.replace("|", "+"), rng(seed), shared=shared) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    images, results = pictures(8, 1, 8), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(augment(images, ALL, rng(7)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


@pytest.mark.parametrize("strategy", ["none", "color", ALL, PAPER, RARE, "+".join(DSA_OPERATIONS)])
def test_parts_of_a_batch_get_exactly_what_their_own_streams_give_them_alone(strategy: str) -> None:
    images = pictures(30, 3, 16)
    streams = [rng(seed) for seed in range(3)]
    together = augment_parts(images, strategy, streams)
    alone = [augment(part, strategy, rng(seed)) for seed, part in enumerate(images.split(10))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("strategy", [ALL, PAPER, RARE])
def test_siamese_halves_get_the_same_change_whatever_their_length(strategy: str) -> None:
    real, generated = pictures(24, 3, 16).split([10, 14])
    for seed in range(12):
        change = draw_augmentation(strategy, rng(seed))
        assert torch.equal(change(real), augmented(real, strategy, rng(seed), shared=True))
        assert torch.equal(change(generated), augmented(generated, strategy, rng(seed), shared=True))


def test_shared_parameters_change_all_images_alike_and_own_ones_do_not() -> None:
    same = pictures(1, 3, 16).expand(64, -1, -1, -1).contiguous()
    for strategy in (*DSA_OPERATIONS, ALL):
        alike = augmented(same, strategy, rng(), shared=True)
        assert torch.equal(alike, alike[:1].expand_as(alike))
        own = augmented(same, strategy, rng(), shared=False)
        assert len(torch.unique(own.flatten(1), dim=0)) >= {"flip": 2, "crop": 16}.get(strategy, 32)


def test_one_operation_an_image_is_drawn_with_equal_chances() -> None:
    num_images = 4000
    image = pictures(1, 1, 8).abs() + 1  # no zeros of its own
    out = augment(image.expand(num_images, -1, -1, -1).contiguous(), "cutout|flip|color", rng())
    is_flipped_or_as_it_was = torch.eq(out, image.flip(3)).flatten(1).all(1) | torch.eq(out, image).flatten(1).all(1)
    has_hole = (out == 0).flatten(1).any(1)
    for share in (is_flipped_or_as_it_was.float().mean(), has_hole.float().mean()):
        assert abs(share - 1 / 3) < 0.04  # five standard deviations


def test_shared_draws_reach_every_operation() -> None:
    images = pictures(2, 1, 8)
    every = [augmented(images, ALL, rng(seed), shared=True) for seed in range(60)]
    assert all(torch.isfinite(changed).all() for changed in every)
    assert any(torch.equal(changed, images) for changed in every)  # a flip that wasn't, or a crop by nothing
    assert any(torch.equal(changed, images.flip(3)) for changed in every)
    assert any((changed == 0).any() for changed in every)


def test_a_step_with_a_probability_leaves_the_other_images_as_they_are() -> None:
    images = pictures(4000, 1, 8)
    is_changed = (augment(images, "color@0.3", rng()) != images).flatten(1).any(1)
    assert abs(is_changed.float().mean() - 0.3) < 0.04  # five standard deviations


def test_crops_reach_every_shift_and_no_further() -> None:
    size, most = 16, 2
    dot = torch.zeros(2000, 1, size, size)
    dot[:, :, 8, 8] = 1
    places = augment(dot, "crop", rng()).nonzero()[:, 2:] - 8
    assert {tuple(place) for place in places.tolist()} == {
        (y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)
    }


def test_ranges_of_colour_are_the_published_ones() -> None:
    contrast_only = torch.cat([torch.full((5000, 1, 1, 2), -1.0), torch.full((5000, 1, 1, 2), 1.0)], dim=2)
    out = augment(contrast_only, "color", rng())
    brightness, factor = out.mean((1, 2, 3)), (out.amax((1, 2, 3)) - out.amin((1, 2, 3))) / 2
    assert -0.5 <= brightness.min() < -0.49
    assert 0.49 < brightness.max() <= 0.5
    assert 0.5 <= factor.min() < 0.51
    assert 1.49 < factor.max() <= 1.5
    tinted = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(5000, 3, 2, 2)
    out = augment(tinted, "color", rng())
    spread = (out[:, 0] - out[:, 2]).mean((1, 2)) / 2  # saturation times contrast
    assert 0 <= spread.min() < 0.02
    assert 2.5 < spread.max() <= 3.0


def test_a_uniform_number_just_below_one_stays_inside_the_images() -> None:
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    for count in range(1, 200):
        assert int(module._whole(largest, count)) == count - 1


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("strategy", [*DSA_OPERATIONS, PAPER, "color+crop+flip+rotate"])
def test_gradients_agree_with_finite_differences(strategy: str, shared: bool) -> None:
    images = pictures(3, 2, 5, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda own: augmented(own, strategy, rng(2), shared=shared), (images,))


def test_gradients_reach_pixels_only_where_they_are_seen() -> None:
    images = torch.randn(64, 1, 8, 8, generator=rng(1)).requires_grad_()
    augment(images, "cutout", rng()).sum().backward()
    seen = augment(torch.ones(64, 1, 8, 8), "cutout", rng())
    assert torch.equal(images.grad, seen)


def test_an_empty_batch_stays_empty() -> None:
    for strategy in (ALL, "color+crop"):
        assert augment(pictures(0, 3, 16), strategy, rng()).shape == (0, 3, 16, 16)


def test_an_unknown_operation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="'colour'; did you mean 'color'"):
        augment(pictures(2, 1, 8), "colour|crop", rng())


def test_scaling_and_rotating_keep_their_precision_under_autocast() -> None:
    images = pictures(6, 1, 32)
    exact = augment(images, "scale+rotate", rng())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(images, "scale+rotate", rng()), exact)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", [ALL, "color|crop", "color+crop+flip", "none"])
@pytest.mark.parametrize("shared", [True, False])
def test_images_on_a_device_get_what_the_cpu_gives_for_the_same_numbers(strategy: str, shared: bool) -> None:
    images, numbers = pictures(16, 3, 32), module._draw(strategy, 1 if shared else 16, rng(4))
    on_device, expected = (module._make(strategy, own) for own in (numbers.cuda(), numbers))
    torch.testing.assert_close(on_device(images.cuda()).cpu(), expected(images), rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", [ALL, "color|crop", "color+crop+flip"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_stream_on_the_device_never_makes_the_host_wait(strategy: str, shared: bool) -> None:
    images = pictures(16, 3, 32).cuda().requires_grad_()
    stream = torch.Generator("cuda").manual_seed(0)
    augmented(images, strategy, stream, shared=shared).sum().backward()  # first use may set up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augmented(images, strategy, stream, shared=shared)
        out.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(out).all()
