from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import PROTOCOLS, EvaluationConfig, Quirk
from dim_ray.core.data.dataset import Normalisation
from dim_ray.core.data.splits import Split
from dim_ray.core.networks import build_classifier
from dim_ray.core.students import student
from dim_ray.core.training.random import derive_seed, stream
from tests.helpers.tiny import ARCHITECTURE, make_dataset
from tests.helpers.tiny_students import (
    CONFIG,
    DATASET,
    Watching,
    agree,
    make_stream,
    share_of_right_answers,
    train,
    use_network,
    with_batch_norm,
)


def with_quirks(*quirks: Quirk, **changes: Any) -> EvaluationConfig:
    return replace(CONFIG, quirks=quirks, **changes)


def batch_statistics_accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the share of right answers of a network of `with_batch_norm` that normalises with this batch."""
    convolved = network[0](images)  # type: ignore[operator]
    mean = convolved.mean(dim=(0, 2, 3), keepdim=True)
    variance = (convolved - mean).square().mean(dim=(0, 2, 3), keepdim=True)
    normalised = (convolved - mean) / (variance + 1e-5).sqrt()
    scale, shift = (network.get_parameter(f"1.{name}")[:, None, None] for name in ("weight", "bias"))
    hidden = (normalised * scale + shift).relu().flatten(1)
    return float((network[4](hidden).argmax(1) == labels).float().mean())  # type: ignore[operator]


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4, 4]), (5, [6, 6]), (12, [12]), (50, [12])])
def test_train_mode_test_takes_the_statistics_of_test_batches_as_large_as_the_training_ones(
    batch_size: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = with_batch_norm()
    use_network(monkeypatch, lambda: network)
    found = train(with_quirks("train_mode_test", batch_size=batch_size))
    images = DATASET.normalisation.from_bytes(DATASET.test.images)
    parts = zip(images.split(sizes), DATASET.test.labels.split(sizes), strict=True)
    expected = [len(part) * batch_statistics_accuracy(network, part, labels) for part, labels in parts]
    assert found.accuracy == pytest.approx(sum(expected) / 12)


def test_train_mode_test_leaves_the_students_statistics_and_its_validation_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks = [with_batch_norm(), with_batch_norm()]
    left = iter(networks)
    use_network(monkeypatch, lambda: next(left))
    plain, quirky = train(CONFIG), train(with_quirks("train_mode_test"))
    assert quirky.final_loss == plain.final_loss
    assert quirky.validation_accuracy == plain.validation_accuracy
    buffers = zip(networks[0].buffers(), networks[1].buffers(), strict=True)
    assert all(torch.equal(first, second) for first, second in buffers)


@pytest.mark.parametrize(("channels", "is_half"), [(1, True), (3, False)])
def test_half_normalised_test_concerns_test_images_of_grey_data_alone(
    channels: int, is_half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(channels=channels)
    seen = {}

    def measure(members: Any, split: Split, normalisation: Normalisation) -> list[float]:
        seen["test" if split is dataset.test else "validation"] = normalisation
        return [0.5]

    monkeypatch.setattr(student, "accuracies", measure)
    image_stream = make_stream("real_on_the_fly", dataset=dataset)
    plain = train(CONFIG, image_stream, dataset)
    quirky = train(with_quirks("half_normalised_test"), image_stream, dataset)
    assert quirky.final_loss == plain.final_loss
    assert seen["validation"] == dataset.normalisation
    assert seen["test"] == (Normalisation(mean=(0.5,), std=(0.5,)) if is_half else dataset.normalisation)


def test_headline_of_best_of_tests_is_the_best_and_otherwise_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for config in (CONFIG, with_quirks("best_of_tests")):
        falling = iter([0.9, 0.3])

        def measure(members: Any, split: Split, *_: Any, falling: Iterator[float] = falling) -> list[float]:
            return [0.5 if split is DATASET.validation else next(falling)]

        monkeypatch.setattr(student, "accuracies", measure)
        found.append(train(config))
    plain, quirky = found
    assert (plain.accuracy, plain.best_test_accuracy) == (0.3, 0.9)
    assert (quirky.accuracy, quirky.best_test_accuracy) == (0.9, 0.9)
    assert quirky.final_loss == plain.final_loss


def test_student_whose_batches_are_all_dropped_is_tested_as_it_was_initialised() -> None:
    for schedule in ("constant", "cosine", "step"):
        config = with_quirks("dropped_batches", batch_size=128, schedule=schedule)
        budget = agree("on_the_fly", config)
        result = train(config, lambda epoch: pytest.fail("no image is needed"), budget=budget, seed=5)
        rng = stream(derive_seed(5, "student"), "weights")
        network = build_classifier(ARCHITECTURE, num_channels=1, num_classes=3, image_size=8, rng=rng)
        assert budget.optimiser_steps == 0
        assert (
            result.accuracy == result.best_test_accuracy == pytest.approx(share_of_right_answers(network, DATASET.test))
        )
        assert math.isnan(result.final_loss)


@pytest.mark.parametrize("quirk", ["dropped_batches", "extra_batch"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("images_per_class", [2, 3])
def test_steps_of_a_quirk_are_the_budgets_and_all_of_them_full(
    images_per_class: int, protocol: str, quirk: Quirk, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_quirks(quirk, augmentation="none")
    budget = agree(protocol, config, images_per_class=images_per_class)
    network = Watching(3)
    use_network(monkeypatch, lambda: network)
    train(config, make_stream(protocol, config, images_per_class=images_per_class), budget=budget)
    sizes = [len(batch) for batch in network.batches]
    assert (len(sizes), sum(sizes)) == (budget.optimiser_steps, budget.images_drawn)
    assert set(sizes) == {4}  # also of the 24 images that there are in all
