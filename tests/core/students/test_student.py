from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import PROTOCOLS, EvaluationConfig
from dim_ray.config.evaluation import Optimizer, Schedule
from dim_ray.core.data.augment import augment
from dim_ray.core.data.splits import Split
from dim_ray.core.networks import build_classifier
from dim_ray.core.networks.classifiers import label_loss
from dim_ray.core.students import student
from dim_ray.core.students.images import ImageStream
from dim_ray.core.training.random import derive_seed, stream
from dim_ray.errors import DivergedError
from tests.helpers import reference
from tests.helpers.tiny import ARCHITECTURE, make_dataset
from tests.helpers.tiny_students import (
    CONFIG,
    DATASET,
    Watching,
    agree,
    make_stream,
    no_warnings,
    share_of_right_answers,
    train,
    use_network,
    with_batch_norm,
)


def numbered(count: int, num_classes: int) -> ImageStream:
    """Returns images that carry their number in an epoch, all over."""

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(count, dtype=torch.float32)
        return numbers[:, None, None, None].expand(-1, 1, 8, 8), torch.arange(num_classes).repeat(count // num_classes)

    return draw


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("batch_size", [2, 3, 4, 7, 29, 128])
@pytest.mark.parametrize("images_per_class", [1, 2, 3, 13])
def test_steps_taken_are_the_budgets_and_every_image_comes_once_an_epoch(
    images_per_class: int, batch_size: int, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(num_classes=num_classes)
    config = replace(CONFIG, epochs=2, batch_size=batch_size, min_steps=3, augmentation="none")
    budget = agree("on_the_fly", config, images_per_class=images_per_class, num_classes=num_classes)
    network = Watching(num_classes)
    use_network(monkeypatch, lambda: network)
    count = images_per_class * num_classes
    train(config, numbered(count, num_classes), dataset, budget=budget, test=False)
    sizes = [len(batch) for batch in network.batches]
    assert len(sizes) == budget.optimiser_steps
    assert sum(sizes) == budget.images_drawn
    assert max(sizes) == budget.batch_size
    assert min(sizes) > 1, "BatchNorm can't measure a single image"
    assert max(sizes) <= batch_size or batch_size == 2
    steps_per_epoch = budget.optimiser_steps // budget.epochs
    orders = set()
    for epoch in range(budget.epochs):
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


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0] * 6),
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]),
        ("step", [1.0, 1.0, 0.2, 0.2, 0.04, 0.04]),
    ],
)
def test_loss_and_accuracies_are_those_of_the_slow_reference(schedule: Schedule, rates: list[float]) -> None:
    config = replace(
        CONFIG,
        epochs=3,
        batch_size=4,
        schedule=schedule,
        decay_points=(1 / 3, 2 / 3),  # two and four of six steps
        decay_factor=0.2,
        augmentation="color+crop",
        num_test_points=3,
    )
    budget = agree("real_on_the_fly", config)
    image_stream = make_stream("real_on_the_fly", epochs=3)
    result = train(config, image_stream, budget=budget, seed=5)
    seed = derive_seed(5, "student")
    network = build_classifier(ARCHITECTURE, num_channels=1, num_classes=3, image_size=8, rng=stream(seed, "weights"))
    optimizer = reference.Momentum(network, 0.05, config.momentum, config.weight_decay)
    accuracies = []
    for epoch in range(3):
        for loss, rate in zip(losses(network, image_stream, epoch, seed), rates[2 * epoch :], strict=False):
            optimizer.step(loss, rate=rate)
        accuracies.append(share_of_right_answers(network, DATASET.test))
    assert result.final_loss == pytest.approx(loss.item(), abs=1e-5)
    assert result.accuracy == pytest.approx(accuracies[-1])
    assert result.best_test_accuracy == pytest.approx(max(accuracies))
    assert result.validation_accuracy == pytest.approx(share_of_right_answers(network, DATASET.validation))
    assert result.budget == budget
    assert 0 < result.wall_seconds < 60


def losses(
    network: nn.Module, image_stream: ImageStream, epoch: int, seed: int, strategy: str = "color+crop"
) -> Iterator[Tensor]:
    """Yields the loss of both steps of an epoch of six images, each before the step."""
    images, labels = image_stream(epoch)
    order = torch.randperm(6, generator=stream(seed, "order", step=epoch))
    for index, batch in enumerate((order[:3], order[3:])):
        changed = augment(images[batch], strategy, stream(seed, "augment", index, step=epoch))
        yield reference.cross_entropy(torch.cat([network(image[None]) for image in changed]), labels[batch])


@pytest.mark.parametrize(("optimizer", "decoupled"), [("adam", False), ("adamw", True)])
def test_adam_is_that_of_the_paper_with_the_decay_in_the_gradient_or_apart(
    optimizer: Optimizer, decoupled: bool
) -> None:
    config = replace(
        CONFIG,
        epochs=3,
        optimizer=optimizer,
        learning_rate=1e-3,
        beta1=0.8,
        beta2=0.99,
        weight_decay=0.3,
        augmentation="none",
    )
    image_stream = make_stream("real_on_the_fly", epochs=3)
    found = train(config, image_stream, budget=agree("real_on_the_fly", config), seed=5)
    seed = derive_seed(5, "student")
    network = build_classifier(ARCHITECTURE, num_channels=1, num_classes=3, image_size=8, rng=stream(seed, "weights"))
    adam = reference.Adam(network, 1e-3, (0.8, 0.99))
    for epoch in range(3):
        for loss in losses(network, image_stream, epoch, seed, "none"):
            penalty = 0.5 * 0.3 * sum(parameter.square().sum() for parameter in network.parameters())
            shrunk = [(1 - 1e-3 * 0.3) * parameter.detach() for parameter in network.parameters()]
            before = [parameter.detach().clone() for parameter in network.parameters()]
            adam.step(loss if decoupled else loss + penalty)
            if decoupled:
                with torch.no_grad():
                    for parameter, old, small in zip(network.parameters(), before, shrunk, strict=True):
                        parameter.add_(small - old)
    assert found.final_loss == pytest.approx(loss.item(), rel=1e-4)


# What students came to before there were quirks, soft labels and other optimisers.
@pytest.mark.parametrize(
    ("protocol", "schedule", "final_loss"),
    [
        ("on_the_fly", "constant", 1.1102405786514282),
        ("on_the_fly", "cosine", 1.1831575632095337),
        ("fixed", "constant", 1.1170302629470825),
        ("fixed", "cosine", 1.1980470418930054),
        ("real_on_the_fly", "constant", 1.086480736732483),
        ("real_on_the_fly", "cosine", 1.1674474477767944),
        ("real_fixed", "constant", 1.0992628335952759),
        ("real_fixed", "cosine", 1.1708307266235352),
    ],
)
def test_corrected_student_is_still_the_same(protocol: str, schedule: Schedule, final_loss: float) -> None:
    config = EvaluationConfig(
        epochs=7,
        min_steps=9,
        batch_size=4,
        learning_rate=0.05,
        schedule=schedule,
        augmentation="color|crop",
        precision="float32",
    )
    budget = agree(protocol, config, images_per_class=5)
    image_stream = make_stream(protocol, images_per_class=5, epochs=budget.epochs, seed=3)
    assert train(config, image_stream, budget=budget, seed=3).final_loss == pytest.approx(final_loss, rel=1e-5)


def test_student_of_soft_labels_has_their_loss_at_its_temperature() -> None:
    config = replace(CONFIG, labels="soft", soft_label_temperature=2.0, augmentation="none", epochs=1, batch_size=6)
    probabilities = torch.softmax(torch.randn(6, 3, generator=stream(0, "soft")), dim=1)
    images, _ = make_stream("real_fixed")(0)
    budget = agree("real_fixed", config)
    found = train(config, lambda epoch: (images, probabilities), budget=budget, seed=5)
    seed = derive_seed(5, "student")
    network = build_classifier(ARCHITECTURE, num_channels=1, num_classes=3, image_size=8, rng=stream(seed, "weights"))
    assert found.final_loss == pytest.approx(label_loss(network(images), probabilities, 2.0).item(), rel=1e-4)


def test_student_learns_real_images_and_not_random_labels() -> None:
    dataset = make_dataset(per_class=30)
    config = replace(CONFIG, epochs=15, batch_size=10, learning_rate=0.2, augmentation="none")
    budget = agree("real_on_the_fly", config, images_per_class=10)
    image_stream = make_stream("real_on_the_fly", images_per_class=10, epochs=15, dataset=dataset)

    def mislabelled(epoch: int) -> tuple[Tensor, Tensor]:
        images, labels = image_stream(epoch)
        return images, labels[torch.randperm(len(labels), generator=stream(0, "labels", step=epoch))]

    assert train(config, image_stream, dataset, budget=budget).accuracy > 0.9
    assert train(config, mislabelled, dataset, budget=budget).accuracy < 0.9


def test_student_is_the_same_again_and_another_for_another_seed() -> None:
    first, same, other = (train(seed=seed) for seed in (1, 1, 2))
    assert replace(first, wall_seconds=0) == replace(same, wall_seconds=0)
    assert first.final_loss != other.final_loss


def test_student_neither_reads_nor_changes_the_global_random_state() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(train(image_stream=make_stream("on_the_fly")).final_loss)
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_student_is_tested_in_eval_mode_and_trained_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_batch_norm()
    modes: list[tuple[bool, bool]] = []
    network.register_forward_hook(lambda module, images, logits: modes.append((module.training, logits.requires_grad)))
    use_network(monkeypatch, lambda: network)
    budget = agree("real_on_the_fly", CONFIG)
    result = train(budget=budget)
    # Two steps in each of four epochs; tests after the second and the last; the validation split at the end.
    training, testing = (True, True), (False, False)
    assert modes == [training] * 4 + [testing] + [training] * 4 + [testing] + [testing]
    assert int(network.get_buffer("1.num_batches_tracked")) == budget.optimiser_steps
    network.eval()
    assert result.accuracy == pytest.approx(share_of_right_answers(network, DATASET.test))
    assert result.validation_accuracy == pytest.approx(share_of_right_answers(network, DATASET.validation))


def test_student_is_trained_and_tested_in_the_precision_of_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    network = with_batch_norm()
    formats: set[tuple[bool, torch.dtype]] = set()
    network.register_forward_hook(lambda module, images, logits: formats.add((module.training, logits.dtype)))
    use_network(monkeypatch, lambda: network)
    train(replace(CONFIG, precision="bfloat16"))
    assert formats == {(True, torch.bfloat16), (False, torch.bfloat16)}


class Forbidden:
    """A split that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} of the test split was used")

    def __len__(self) -> int:
        raise AssertionError("the length of the test split was used")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_search_never_touches_the_test_split(protocol: str) -> None:
    dataset = replace(DATASET, test=cast(Split, Forbidden()))
    image_stream = make_stream(protocol, dataset=dataset)
    result = train(CONFIG, image_stream, dataset, budget=agree(protocol), test=False)
    assert math.isnan(result.accuracy)
    assert math.isnan(result.best_test_accuracy)
    assert 0 <= result.validation_accuracy <= 1
    with pytest.raises(AssertionError, match="test split was used"):
        train(CONFIG, image_stream, dataset, budget=agree(protocol), test=True)


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
    budget = agree("real_on_the_fly", config)
    image_stream = make_stream("real_on_the_fly", epochs=epochs)
    seen: list[int] = []
    found: list[int] = []

    def counting(epoch: int) -> tuple[Tensor, Tensor]:
        seen.append(epoch + 1)
        return image_stream(epoch)

    def measure(members: Any, split: Split, normalisation: Any) -> list[float]:
        if split is DATASET.validation:
            return [0.5]
        found.append(seen[-1])
        return [1.0 - 0.1 * len(found)]  # it gets worse and worse

    monkeypatch.setattr(student, "accuracies", measure)
    result = train(config, counting, budget=budget)
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
    with no_warnings():
        train(replace(CONFIG, schedule="cosine"))
