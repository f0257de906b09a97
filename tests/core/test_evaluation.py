from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import PROTOCOLS, EvaluationConfig, GeneratorConfig, Protocol
from dim_ray.core import evaluation
from dim_ray.core.augment import augment
from dim_ray.core.data import Dataset
from dim_ray.core.evaluation import (
    Budget,
    ImageSource,
    StudentResult,
    balanced_labels,
    budget,
    image_source,
    train_student,
)
from dim_ray.core.generator import Generator, build_generator
from dim_ray.core.initialise import initialise
from dim_ray.core.networks import build_classifier
from dim_ray.core.random import derive_seed, stream
from dim_ray.core.splits import Split
from dim_ray.errors import DivergedError
from tests.core import reference
from tests.core.tiny import ARCHITECTURE, make_dataset

DATASET = make_dataset()
CONFIG = EvaluationConfig(epochs=4, batch_size=4, learning_rate=0.05, num_test_points=2)
GENERATED: tuple[Protocol, ...] = ("on_the_fly", "fixed")
REAL: tuple[Protocol, ...] = ("real_on_the_fly", "real_fixed")


def agree(protocol: str, config: EvaluationConfig = CONFIG, *, images_per_class: int = 2, **change: Any) -> Budget:
    arguments: dict[str, Any] = {
        "num_classes": 3,
        "image_bytes": 64,
        "generator_bytes": 10_000,
        "real_class_counts": [8, 8, 8],
        **change,
    }
    return budget(config, cast(Protocol, protocol), images_per_class=images_per_class, **arguments)


def make_generator() -> Generator:
    generator = build_generator(
        GeneratorConfig(capacity=4, latent_dim=8, refinements=()),
        num_classes=3,
        num_channels=1,
        image_size=8,
        rng=stream(0),
    )
    generator.train()
    with torch.no_grad():  # statistics of its own, so that eval mode and training mode differ
        for step in range(3):
            generator.sample(torch.arange(3).repeat(8), stream(0, "statistics", step=step))
    return generator


def make_source(
    protocol: str, *, images_per_class: int = 2, epochs: int = 4, seed: int = 0, **change: Any
) -> ImageSource:
    arguments: dict[str, Any] = {"generator": make_generator(), "dataset": DATASET, **change}
    return image_source(
        cast(Protocol, protocol), images_per_class=images_per_class, epochs=epochs, seed=seed, **arguments
    )


def train(
    config: EvaluationConfig = CONFIG,
    source: ImageSource | None = None,
    dataset: Dataset = DATASET,
    *,
    contract: Budget | None = None,
    architecture: str = ARCHITECTURE,
    seed: int = 0,
    test: bool = True,
) -> StudentResult:
    contract = contract or agree("real_on_the_fly", config)
    source = source or make_source("real_on_the_fly", epochs=contract.epochs, dataset=dataset)
    return train_student(config, source, dataset, architecture=architecture, contract=contract, seed=seed, test=test)


# The budget


@pytest.mark.parametrize(
    ("protocol", "distinct", "stored"),
    [
        # 10 classes, IPC 50: 500 images an epoch, 1,000 epochs; 6,000 real images a class.
        ("on_the_fly", 500_000, 123_456),
        ("fixed", 500, 500 * 784),
        ("real_on_the_fly", 60_000, 60_000 * 784),
        ("real_fixed", 500, 500 * 784),
    ],
)
def test_budget_of_the_paper(protocol: str, distinct: int, stored: int) -> None:
    found = agree(
        protocol,
        EvaluationConfig(),
        images_per_class=50,
        num_classes=10,
        image_bytes=784,
        generator_bytes=123_456,
        real_class_counts=[6000] * 10,
    )
    assert found == Budget(
        images_drawn=500_000,
        distinct_images=distinct,
        optimiser_steps=4000,
        batch_size=125,
        epochs=1000,
        stored_bytes=stored,
    )


@pytest.mark.parametrize(
    ("images_per_class", "batch_size", "min_steps", "epochs", "steps", "drawn", "largest"),
    [
        (1, 128, 1, 4, 4, 12, 3),  # three images are one batch
        (1, 128, 10, 10, 10, 30, 3),  # four epochs would be four steps
        (10, 10, 10, 4, 12, 120, 10),  # three steps an epoch
        (10, 10, 13, 5, 15, 150, 10),  # one step more than four epochs have takes a whole epoch
        (10, 7, 1, 4, 20, 120, 6),  # five batches of six instead of four of seven and one of two
        (10, 29, 1, 4, 8, 120, 15),  # not 29 and 1
        (1, 2, 1, 4, 4, 12, 3),  # not 2 and 1
        (3, 2, 1, 4, 16, 36, 3),  # four steps: three of two and one of three
        (2, 2, 1, 4, 12, 24, 2),
    ],
)
def test_budget_in_numbers(
    images_per_class: int, batch_size: int, min_steps: int, epochs: int, steps: int, drawn: int, largest: int
) -> None:
    config = replace(CONFIG, batch_size=batch_size, min_steps=min_steps)
    found = agree("on_the_fly", config, images_per_class=images_per_class)
    assert (found.epochs, found.optimiser_steps, found.images_drawn) == (epochs, steps, drawn)
    assert (found.batch_size, found.distinct_images) == (largest, drawn)


def test_classes_of_different_sizes_are_used_up_at_different_times() -> None:
    found = agree("real_on_the_fly", images_per_class=2, real_class_counts=[100, 8, 5])  # eight draws a class
    assert found.distinct_images == 8 + 8 + 5
    assert found.stored_bytes == 113 * 64
    assert agree("real_fixed", images_per_class=6, real_class_counts=[100, 8, 5]).distinct_images == 6 + 6 + 5


# Sources of images


def test_labels_are_balanced_class_after_class() -> None:
    assert balanced_labels(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    for protocol in PROTOCOLS:
        images, labels = make_source(protocol, images_per_class=3)(0)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert labels.dtype == torch.int64
        assert images.shape == (9, 1, 8, 8)
        assert images.dtype == torch.float32


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def drawn_by_epoch(protocol: str, images_per_class: int, epochs: int, **change: Any) -> list[tuple[Tensor, Tensor]]:
    source = make_source(protocol, images_per_class=images_per_class, epochs=epochs, **change)
    return [source(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize(("images_per_class", "epochs"), [(1, 3), (2, 4), (3, 2), (3, 5), (8, 3), (1, 30)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_distinct_images_are_as_many_as_the_budget_says(protocol: str, images_per_class: int, epochs: int) -> None:
    contract = agree(protocol, replace(CONFIG, epochs=epochs), images_per_class=images_per_class)
    assert contract.epochs == epochs
    drawn = [key for images, _ in drawn_by_epoch(protocol, images_per_class, epochs) for key in keys(images)]
    assert len(drawn) == contract.images_drawn
    assert len(set(drawn)) == contract.distinct_images


@pytest.mark.parametrize("protocol", REAL)
def test_real_images_keep_their_labels_and_normalisation(protocol: str) -> None:
    normalised = reference.normalise(DATASET.train.images / 255, DATASET)
    for images, labels in drawn_by_epoch(protocol, 3, 4):
        for image, label in zip(images, labels.tolist(), strict=True):
            distances = (normalised - image).abs().amax(dim=(1, 2, 3))
            assert distances.min() < 1e-5
            assert DATASET.train.labels[distances.argmin()] == label


def test_real_images_come_equally_often_before_any_comes_again() -> None:
    counts = Counter(key for images, _ in drawn_by_epoch("real_on_the_fly", 2, 6) for key in keys(images))
    assert sorted(counts.values()) == [1] * 12 + [2] * 12  # 12 draws of each class of 8


def test_real_images_come_in_another_order_the_second_time() -> None:
    first, second = (keys(images) for images, _ in drawn_by_epoch("real_on_the_fly", 8, 2))
    assert first != second
    assert set(first) == set(second)


@pytest.mark.parametrize("protocol", ["fixed", "real_fixed"])
def test_fixed_images_are_the_same_in_every_epoch(protocol: str) -> None:
    (first, _), *others = drawn_by_epoch(protocol, 3, 4)
    assert len(set(keys(first))) == 9
    assert all(torch.equal(images, first) for images, _ in others)


def test_images_generated_on_the_fly_never_come_again() -> None:
    drawn = [key for images, _ in drawn_by_epoch("on_the_fly", 3, 10) for key in keys(images)]
    assert len(set(drawn)) == len(drawn) == 90


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_images_depend_on_seed_and_epoch_alone(protocol: str) -> None:
    first, same, other = (drawn_by_epoch(protocol, 2, 3, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    late = make_source(protocol, images_per_class=2, epochs=3, seed=1)
    late(0)
    assert torch.equal(late(2)[0], first[2][0]), "an epoch that was left out changed another"


@pytest.mark.parametrize("protocol", GENERATED)
def test_generated_images_are_the_generators_in_eval_mode(protocol: str) -> None:
    generator = make_generator().train()
    statistics = {name: buffer.clone() for name, buffer in generator.named_buffers()}
    ((images, labels),) = drawn_by_epoch(protocol, 4, 1, generator=generator)
    assert not images.requires_grad
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in generator.named_buffers())
    generator.eval()
    noise = torch.randn(12, 8, generator=stream(0, "images"))
    for index, label in enumerate(labels):
        (image,) = generator(noise[index : index + 1], label[None])
        expected = reference.normalise((image[None].detach() + 1) / 2, DATASET)[0]
        rounding = 0.5 / 255 / DATASET.normalisation.std[0] if protocol == "fixed" else 0.0
        torch.testing.assert_close(images[index], expected, atol=1e-4 + rounding, rtol=1e-4)


def bytes_of(images: Tensor) -> Tensor:
    """Returns normalised images on the scale of bytes."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (DATASET.normalisation.mean, DATASET.normalisation.std)
    )
    return (images * std + mean) * 255


@pytest.mark.parametrize("protocol", ["fixed", *REAL])
def test_images_that_are_stored_are_whole_bytes(protocol: str) -> None:
    for images, _ in drawn_by_epoch(protocol, 4, 2):
        values = bytes_of(images)
        torch.testing.assert_close(values, values.round(), atol=1e-2, rtol=0)


def test_images_generated_on_the_fly_are_not_rounded() -> None:
    for images, _ in drawn_by_epoch("on_the_fly", 4, 2):
        values = bytes_of(images)
        assert (values - values.round()).abs().mean() == pytest.approx(0.25, abs=0.05)  # as for any real number


def test_images_are_generated_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_GENERATION_BATCH", 5)
    sizes = []
    generator = make_generator()
    generator.register_forward_hook(lambda module, given, images: sizes.append(len(images)))
    ((images, labels),) = drawn_by_epoch("on_the_fly", 4, 1, generator=generator)
    assert sizes == [5, 5, 2]
    assert len(images) == len(labels) == 12
    assert len(set(keys(images))) == 12


@pytest.mark.parametrize("protocol", REAL)
def test_real_images_need_no_generator(protocol: str) -> None:
    assert len(drawn_by_epoch(protocol, 2, 1, generator=None)) == 1


@pytest.mark.parametrize("protocol", GENERATED)
def test_generated_images_do(protocol: str) -> None:
    with pytest.raises(ValueError, match=f"{protocol}.*generator"):
        make_source(protocol, generator=None)


# Students


def numbered(count: int, num_classes: int) -> ImageSource:
    """Returns images that carry their number in an epoch, all over."""

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(count, dtype=torch.float32)
        return numbers[:, None, None, None].expand(-1, 1, 8, 8), torch.arange(num_classes).repeat(count // num_classes)

    return draw


class Watching(nn.Module):
    """A linear classifier that keeps what it is trained on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.linear = nn.Linear(64, num_classes)
        initialise(self, stream(0))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.batches.append([round(number) for number in images[:, 0, 0, 0].tolist()])
        logits: Tensor = self.linear(images.flatten(1) / 100)
        return logits


def use_network(monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module]) -> None:
    monkeypatch.setattr(evaluation, "build_classifier", lambda *args, **kwargs: make())


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 29, 128])
@pytest.mark.parametrize("images_per_class", [1, 2, 3, 13])
def test_steps_taken_are_the_budgets_and_every_image_comes_once_an_epoch(
    images_per_class: int, batch_size: int, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(num_classes=num_classes)
    config = replace(CONFIG, epochs=2, batch_size=batch_size, min_steps=3, augmentation="none")
    contract = agree("on_the_fly", config, images_per_class=images_per_class, num_classes=num_classes)
    network = Watching(num_classes)
    use_network(monkeypatch, lambda: network)
    count = images_per_class * num_classes
    train(config, numbered(count, num_classes), dataset, contract=contract, test=False)
    sizes = [len(batch) for batch in network.batches]
    assert len(sizes) == contract.optimiser_steps
    assert sum(sizes) == contract.images_drawn
    assert max(sizes) == contract.batch_size
    assert min(sizes) > 1, "BatchNorm can't measure a single image"
    assert max(sizes) <= batch_size or batch_size == 2
    steps_per_epoch = contract.optimiser_steps // contract.epochs
    orders = set()
    for epoch in range(contract.epochs):
        batches = network.batches[epoch * steps_per_epoch : (epoch + 1) * steps_per_epoch]
        order = [number for batch in batches for number in batch]
        assert sorted(order) == list(range(count))
        orders.add(tuple(order))
    assert len(orders) > 1 or count < 4


@pytest.mark.parametrize("architecture", ["resnet10_w4", "resnet18_w4"])
def test_residual_network_trains_on_eight_pixels_where_a_batch_would_be_left_with_one_image(architecture: str) -> None:
    config = replace(CONFIG, epochs=2, batch_size=5)  # of six images an epoch
    result = train(config, architecture=architecture)
    assert math.isfinite(result.final_loss)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_loss_and_accuracies_are_those_of_the_slow_reference(schedule: Any) -> None:
    config = replace(CONFIG, epochs=3, batch_size=4, schedule=schedule, augmentation="color_crop", num_test_points=3)
    contract = agree("real_on_the_fly", config)
    source = make_source("real_on_the_fly", epochs=3)
    result = train(config, source, contract=contract, seed=5)
    seed = derive_seed(5, "student")
    network = build_classifier(ARCHITECTURE, num_channels=1, num_classes=3, image_size=8, rng=stream(seed, "weights"))
    optimizer = reference.Momentum(network, 0.05, config.momentum, config.weight_decay)
    step, accuracies = 0, []
    for epoch in range(3):
        images, labels = source(epoch)
        order = torch.randperm(6, generator=stream(seed, "order", step=epoch))
        for index, batch in enumerate((order[:3], order[3:])):
            changed = augment(images[batch], "color_crop", stream(seed, "augment", index, step=epoch))
            loss = reference.cross_entropy(torch.cat([network(image[None]) for image in changed]), labels[batch])
            rate = 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / 6))
            optimizer.step(loss, rate=rate)
            step += 1
        accuracies.append(share_of_right_answers(network, DATASET.test))
    assert result.final_loss == pytest.approx(loss.item(), abs=1e-5)
    assert result.accuracy == pytest.approx(accuracies[-1])
    assert result.best_test_accuracy == pytest.approx(max(accuracies))
    assert result.validation_accuracy == pytest.approx(share_of_right_answers(network, DATASET.validation))
    assert result.budget == contract
    assert 0 < result.wall_seconds < 60


@torch.no_grad()
def share_of_right_answers(network: nn.Module, split: Split) -> float:
    normalised = reference.normalise(split.images / 255, DATASET)
    answers = [network(image[None]).argmax().item() for image in normalised]
    return float(sum(a == b for a, b in zip(answers, split.labels.tolist(), strict=True)) / len(split))


def test_student_learns_real_images_and_not_random_labels() -> None:
    dataset = make_dataset(per_class=30)
    config = replace(CONFIG, epochs=15, batch_size=10, learning_rate=0.2, augmentation="none")
    contract = agree("real_on_the_fly", config, images_per_class=10)
    source = make_source("real_on_the_fly", images_per_class=10, epochs=15, dataset=dataset)

    def mislabelled(epoch: int) -> tuple[Tensor, Tensor]:
        images, labels = source(epoch)
        return images, labels[torch.randperm(len(labels), generator=stream(0, "labels", step=epoch))]

    assert train(config, source, dataset, contract=contract).accuracy > 0.9
    assert train(config, mislabelled, dataset, contract=contract).accuracy < 0.9


def test_student_is_the_same_again_and_another_for_another_seed() -> None:
    first, same, other = (train(seed=seed) for seed in (1, 1, 2))
    assert replace(first, wall_seconds=0) == replace(same, wall_seconds=0)
    assert first.final_loss != other.final_loss


def test_student_neither_reads_nor_changes_the_global_random_state() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(train(source=make_source("on_the_fly")).final_loss)
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def with_batch_norm() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    initialise(network, stream(3))
    return network


def test_student_is_tested_in_eval_mode_and_trained_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_batch_norm()
    modes: list[tuple[bool, bool]] = []
    network.register_forward_hook(lambda module, images, logits: modes.append((module.training, logits.requires_grad)))
    use_network(monkeypatch, lambda: network)
    contract = agree("real_on_the_fly", CONFIG)
    result = train(contract=contract)
    # Two steps in each of four epochs; tests after the second and the last; the validation split at the end.
    training, testing = (True, True), (False, False)
    assert modes == [training] * 4 + [testing] + [training] * 4 + [testing] + [testing]
    assert int(network.get_buffer("1.num_batches_tracked")) == contract.optimiser_steps
    network.eval()
    assert result.accuracy == pytest.approx(share_of_right_answers(network, DATASET.test))
    assert result.validation_accuracy == pytest.approx(share_of_right_answers(network, DATASET.validation))


class Forbidden:
    """A split that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the test split was used")

    def __len__(self) -> int:
        raise AssertionError("the length of the test split was used")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_search_never_touches_the_test_split(protocol: str) -> None:
    dataset = replace(DATASET, test=cast(Split, Forbidden()))
    source = make_source(protocol, dataset=dataset)
    result = train(CONFIG, source, dataset, contract=agree(protocol), test=False)
    assert math.isnan(result.accuracy)
    assert math.isnan(result.best_test_accuracy)
    assert 0 <= result.validation_accuracy <= 1
    with pytest.raises(AssertionError, match="test split was used"):
        train(CONFIG, source, dataset, contract=agree(protocol), test=True)


def test_testing_does_not_change_the_student() -> None:
    tested, untested = train(architecture="resnet10_w4"), train(architecture="resnet10_w4", test=False)
    assert tested.final_loss == untested.final_loss
    assert tested.validation_accuracy == untested.validation_accuracy


@pytest.mark.parametrize(
    ("epochs", "num_test_points", "tested_after"),
    [(10, 5, [2, 4, 6, 8, 10]), (4, 1, [4]), (3, 5, [1, 2, 3]), (7, 2, [4, 7]), (1, 5, [1])],
)
def test_tests_are_spread_evenly_and_the_best_of_them_is_recorded_apart(
    epochs: int, num_test_points: int, tested_after: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, epochs=epochs, num_test_points=num_test_points)
    contract = agree("real_on_the_fly", config)
    source = make_source("real_on_the_fly", epochs=epochs)
    seen: list[int] = []
    found: list[int] = []

    def counting(epoch: int) -> tuple[Tensor, Tensor]:
        seen.append(epoch + 1)
        return source(epoch)

    def measure(network: nn.Module, split: Split, normalisation: Any) -> float:
        if split is DATASET.validation:
            return 0.5
        found.append(seen[-1])
        return 1.0 - 0.1 * len(found)  # it gets worse and worse

    monkeypatch.setattr(evaluation, "accuracy", measure)
    result = train(config, counting, contract=contract)
    assert found == tested_after
    assert result.best_test_accuracy == pytest.approx(0.9)
    assert result.accuracy == pytest.approx(1.0 - 0.1 * len(tested_after))
    assert result.best_test_accuracy >= result.accuracy
    assert result.validation_accuracy == 0.5


@pytest.mark.parametrize("test", [True, False])
def test_absurd_learning_rate_is_an_error_that_names_it(test: bool) -> None:
    with pytest.raises(DivergedError, match=r"convnet3_w8 student diverged.*evaluation\.learning_rate, now 1e\+30"):
        train(replace(CONFIG, learning_rate=1e30), test=test)


def test_weights_that_the_last_step_spoilt_are_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_batch_norm()
    last = network.get_parameter("4.bias")
    steps = []

    def spoil(gradient: Tensor) -> Tensor:
        steps.append(1)
        return gradient * (math.nan if len(steps) == 8 else 1)

    last.register_hook(spoil)
    use_network(monkeypatch, lambda: network)
    with pytest.raises(DivergedError, match="weights"):
        train()


def test_training_a_student_warns_of_nothing() -> None:
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # otherwise torch warns once a process, perhaps in another test
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(replace(CONFIG, schedule="cosine"))
    finally:
        torch.set_warn_always(before)
