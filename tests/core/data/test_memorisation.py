"""A generator that returns training images is found out; one that draws new images isn't accused."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from dim_ray.config import DataConfig
from dim_ray.core.data import memorisation
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.core.data.memorisation import held_out_images, measure_memorisation, memorisation_in, nearest
from dim_ray.core.data.splits import Split
from tests.helpers.tiny import make_dataset


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Half of the digits: the other half plays a generator that draws new images."""
    dataset = load_dataset(DataConfig())
    return replace(dataset, train=_part(dataset.train, slice(0, None, 2)))


@pytest.fixture(scope="module")
def unseen() -> Tensor:
    return load_dataset(DataConfig()).train.images[1::2]


def _part(split: Split, which: slice) -> Split:
    return Split(images=split.images[which], labels=split.labels[which])


def noisy(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + deviation * noise).clamp(0, 255).to(torch.uint8)


def test_new_images_of_the_same_kind_are_not_accused(digits: Dataset, unseen: Tensor) -> None:
    found = measure_memorisation(unseen, digits)
    assert not found.is_memorised
    assert abs(found.excess) < 3 * found.excess_error
    assert found.distance == pytest.approx(found.held_out_distance, rel=0.05)
    assert found.verdict().startswith("No sign of memorisation: ")


def test_smooth_images_are_nearer_to_training_images_but_not_accused(digits: Dataset, unseen: Tensor) -> None:
    _, places = nearest(unseen, unseen, 6)
    smooth = unseen[places].float().mean(dim=1).to(torch.uint8)
    found = measure_memorisation(smooth, digits)
    assert found.distance < 0.9 * found.held_out_distance
    assert not found.is_memorised


@pytest.mark.parametrize("deviation", [0, 10, 30])
def test_training_images_and_noisy_ones_are_found_out(digits: Dataset, deviation: float) -> None:
    found = measure_memorisation(noisy(digits.train.images, deviation), digits)
    assert found.is_memorised
    assert found.excess > 0.9
    assert found.verdict().startswith("Training images are memorised: ")


def test_two_training_images_in_a_hundred_are_found_out(digits: Dataset, unseen: Tensor) -> None:
    images = torch.cat([unseen, digits.train.images[: len(unseen) // 49]])
    found = measure_memorisation(images, digits)
    assert found.is_memorised
    assert found.num_copies >= len(unseen) // 49
    assert f"{found.num_copies} of {len(images)} generated images are near copies" in found.verdict()


def test_a_collapsed_generator_is_not_accused_of_its_one_image(digits: Dataset, unseen: Tensor) -> None:
    found = measure_memorisation(unseen[:1].repeat(500, 1, 1, 1), digits)
    assert not found.is_memorised
    assert found.excess_error > 1


def test_nearest_is_that_of_a_loop_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(channels=3)
    images, real = dataset.test.images, dataset.train.images
    expected = torch.tensor([[(a / 255 - b / 255).square().mean().sqrt().item() for b in real] for a in images])
    for block in (7, 4000):
        monkeypatch.setattr(memorisation, "_BLOCK", block)
        distances, places = nearest(images, real, 3)
        assert torch.allclose(distances, expected.sort(dim=1).values[:, :3], atol=1e-5)
        assert torch.equal(places, expected.argsort(dim=1)[:, :3])


def test_the_standard_error_is_that_over_all_ways_to_hold_images_out(digits: Dataset, unseen: Tensor) -> None:
    held_out = held_out_images(digits)
    real, num_train = torch.cat([digits.train.images, held_out]), len(digits.train)
    collapsed = torch.cat([unseen[:100], unseen[:5].repeat(20, 1, 1, 1)])
    _, places = nearest(collapsed, real, 1)
    rng, excesses = torch.Generator().manual_seed(0), []
    chance = num_train / len(real)
    for _ in range(4000):
        is_train = torch.zeros(len(real), dtype=torch.bool)
        is_train[torch.randperm(len(real), generator=rng)[:num_train]] = True
        excesses.append((is_train[places[:, 0]].float().mean().item() - chance) / (1 - chance))
    found = measure_memorisation(collapsed, digits)
    assert found.excess_error == pytest.approx(torch.tensor(excesses).std().item(), rel=0.05)
    share = (places[:, 0] < num_train).float().mean().item()
    assert found.excess == pytest.approx((share - chance) / (1 - chance))


def test_a_source_s_own_test_split_does_not_count_as_held_out(digits: Dataset) -> None:
    assert len(held_out_images(digits)) == len(digits.validation) + len(digits.test)
    assert len(held_out_images(replace(digits, held_out=("validation",)))) == len(digits.validation)


def test_a_card_keeps_it_and_one_of_another_version_has_none(digits: Dataset, unseen: Tensor) -> None:
    found = measure_memorisation(unseen, digits)
    assert memorisation_in({"memorisation": asdict(found)}) == found
    assert memorisation_in({}) is None
    assert memorisation_in({"memorisation": {**asdict(found), "later": 1}}) is None
