from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import HealthConfig, MatchingConfig, PriorConfig
from dim_ray.core.augment import Augmentation, draw_augmentation
from dim_ray.core.data import Dataset, signed
from dim_ray.core.generator import Generator
from dim_ray.core.matching import distill, logit_distance
from dim_ray.core.networks import build_classifier
from dim_ray.core.pair import Pair
from dim_ray.core.pool import Teacher, TeacherPool, shard, shard_weight
from dim_ray.core.ports import Collective, NoCheckpointer, SingleWorker
from dim_ray.core.random import stream
from tests.core import reference
from tests.core.tiny import (
    MATCHING,
    PRIOR,
    RecordingReporter,
    equal_states,
    make_dataset,
    make_pair,
    make_plain_pair,
    make_teachers,
)
from tests.core.workers import workers

DATASET = make_dataset()
LEARNING_RATE = 0.02
DECAY = 0.7


def no_measurement(epoch: int) -> Mapping[str, float]:
    return {}


def train(
    pair: Pair,
    pool: TeacherPool | None,
    config: MatchingConfig = MATCHING,
    dataset: Dataset = DATASET,
    prior: PriorConfig = PRIOR,
    **change: Any,
) -> RecordingReporter:
    reporter = RecordingReporter()
    arguments: dict[str, Any] = {
        "shard_weight": 1.0,
        "health": HealthConfig(),
        "after_epoch": no_measurement,
        "checkpointer": NoCheckpointer(),
        "collective": SingleWorker(),
        **change,
    }
    distill(pair, pool, config, prior, dataset, reporter=reporter, **arguments)
    return reporter


def load(teacher: Teacher, number: int, dataset: Dataset = DATASET) -> nn.Module:
    """Returns a snapshot as a network of its own."""
    network = build_classifier(
        teacher.architecture,
        num_channels=dataset.num_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        rng=stream(99),
    )
    network.load_state_dict(dict(teacher.snapshots[number]))
    return network.eval().requires_grad_(False)


def drawing(shards: list[list[Teacher]], config: MatchingConfig) -> reference.Draw:
    """Returns what each worker draws: parameters of the augmentation first, then teacher and snapshot."""

    def draw(rank: int, number: int) -> tuple[Augmentation, nn.Module] | None:
        if not shards[rank]:
            return None
        rng = stream(config.seed, "pool", rank, step=number)
        size = config.batch_size // len(shards)
        augmentation = draw_augmentation(config.augmentation, batch_size=size, image_size=8, rng=rng, shared=True)
        teacher = shards[rank][int(torch.randint(len(shards[rank]), (), generator=rng))]
        return augmentation, load(teacher, int(torch.randint(len(teacher.snapshots), (), generator=rng)))

    return draw


def plain_networks(pair: Pair) -> reference.Networks:
    networks = copy.deepcopy((pair.generator.train(), pair.average, pair.discriminator))
    for network in networks:
        network.requires_grad_(True)
    return networks


@pytest.mark.parametrize(
    ("augmentation", "discriminator_steps", "gradient_penalty_every"),
    [("none", 1, 1), ("color_crop_cutout_flip_scale_rotate", 1, 3), ("flip+color+rotate", 2, 3)],
)
def test_losses_and_weights_are_those_of_the_slow_reference(
    augmentation: str, discriminator_steps: int, gradient_penalty_every: int
) -> None:
    dataset = make_dataset(per_class=2)
    prior = replace(PRIOR, discriminator_steps=discriminator_steps, gradient_penalty_every=gradient_penalty_every)
    config = replace(MATCHING, epochs=4, batch_size=6, weight=2.0, adversarial_weight=0.3, augmentation=augmentation)
    teachers = make_teachers(dataset, [2, 1, 3])
    pair = make_plain_pair(dataset, ema_decay=DECAY, learning_rate=LEARNING_RATE)
    networks = plain_networks(pair)
    expected, _ = reference.matching_losses(
        networks,
        config,
        prior,
        dataset,
        drawing([teachers], config),
        shard_weights=[1.5],
        learning_rate=LEARNING_RATE,
        decay=DECAY,
    )
    reporter = train(pair, TeacherPool(teachers, dataset), config, dataset, prior, shard_weight=1.5)
    for name in ("discriminator_loss", "generator_loss", "matching_loss"):
        assert reporter.losses(name) == pytest.approx([losses[name] for (losses,) in expected], rel=1e-5, abs=1e-5)
    for module, slow in zip((pair.generator, pair.average, pair.discriminator), networks, strict=True):
        torch.testing.assert_close(module.state_dict(), slow.state_dict(), atol=1e-5, rtol=1e-4)


class Echo(Generator):
    """A generator that returns the real images of the labels that it is given."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(capacity=2, latent_dim=4, num_classes=3, num_channels=1, image_size=8, refinements=())
        self._dataset = dataset

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        first = (self._dataset.train.labels == labels[:, None]).int().argmax(dim=1)
        return signed(self._dataset.train.images[first]) + 0 * next(self.parameters()).sum()


class WatchingPool:
    """A pool of one teacher that keeps what it is shown."""

    def __init__(self, teacher: nn.Module) -> None:
        self.shown: list[Tensor] = []
        self._teacher = teacher

    def draw(self, rng: torch.Generator) -> Any:
        assert rng.device.type == "cpu"

        def classify(images: Tensor) -> Tensor:
            self.shown.append(images.detach())
            logits: Tensor = self._teacher(images)
            return logits

        return classify


@pytest.mark.parametrize("operation", ["color", "crop", "cutout", "flip", "rotate", "scale"])
def test_both_halves_are_changed_in_the_same_way(operation: str) -> None:
    # One image a class: the generator's images of the labels are then the real ones, in the same order.
    dataset = make_dataset(per_class=1)
    generator = Echo(dataset)
    pair = replace(make_plain_pair(dataset), generator=generator, average=generator)
    pool = WatchingPool(load(make_teachers(dataset, [1])[0], 0, dataset))
    config = replace(MATCHING, batch_size=3, epochs=4, augmentation=operation)
    reporter = train(pair, cast(TeacherPool, pool), config, dataset)
    assert reporter.losses("matching_loss") == pytest.approx([0.0] * 4, abs=1e-6)
    assert len(pool.shown) == 8
    changes = []
    for number, (real, generated) in enumerate(zip(pool.shown[::2], pool.shown[1::2], strict=True)):
        torch.testing.assert_close(real, generated, atol=1e-4, rtol=1e-4)
        batch = reference.order("matching", config.seed, number, 3)
        plain = reference.normalise(dataset.train.images[batch] / 255, dataset)
        changes.append((real - plain).abs().max().item())
    assert max(changes) > 0.1, "nothing was augmented"


def test_distance_is_the_mean_square_of_the_difference_of_log_shares() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]])
    other = torch.tensor([[11.0, 12.0, 13.0], [1.0, 0.0, 5.0]], requires_grad=True)
    distance = logit_distance(lambda images: images, logits, other)
    difference = reference.log_softmax(logits) - reference.log_softmax(other)
    assert difference[0].abs().max() < 1e-5, "a constant added to all logits is no difference"
    assert distance.item() == pytest.approx((difference**2).sum().item() / 6)


def test_gradient_goes_through_the_generated_half_alone() -> None:
    real, generated = (torch.randn(4, 1, 8, 8, requires_grad=True) for _ in range(2))
    teacher = load(make_teachers(DATASET, [1])[0], 0)
    logit_distance(teacher, real, generated).backward()
    assert real.grad is None
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0


def test_teachers_are_not_changed_by_being_matched() -> None:
    teachers = make_teachers(DATASET, [1, 2], "resnet10_w4")
    before = copy.deepcopy([dict(snapshot) for teacher in teachers for snapshot in teacher.snapshots])
    train(make_pair(DATASET), TeacherPool(teachers, DATASET))
    after = [dict(snapshot) for teacher in teachers for snapshot in teacher.snapshots]
    assert all(equal_states(first, second) for first, second in zip(before, after, strict=True))


def test_without_a_pool_it_is_adversarial_training_with_the_real_labels() -> None:
    dataset = make_dataset(per_class=2)
    config = replace(MATCHING, epochs=3, batch_size=6, kind="none")
    pair = make_plain_pair(dataset, learning_rate=LEARNING_RATE)
    networks = plain_networks(pair)
    expected, _ = reference.matching_losses(
        networks,
        config,
        PRIOR,
        dataset,
        lambda rank, number: None,
        shard_weights=[1.0],
        learning_rate=LEARNING_RATE,
        decay=0.0,
    )
    reporter = train(pair, None, config, dataset)
    assert reporter.losses("generator_loss") == pytest.approx([own["generator_loss"] for (own,) in expected], abs=1e-5)
    assert all("matching_loss" not in metrics for _, _, metrics in reporter.reports)


def test_measuring_an_epoch_does_not_change_the_training() -> None:
    pairs = [make_pair(DATASET, ema_decay=decay) for decay in (0.0, 0.0, 0.5, 0.5)]
    pool = TeacherPool(make_teachers(DATASET, [2]), DATASET)
    for number, pair in enumerate(pairs):

        def measure(epoch: int, pair: Pair = pair) -> Mapping[str, float]:
            pair.average.eval()
            with torch.no_grad():
                return {"mean": pair.average.sample(torch.tensor([0, 1]), stream(0, "measure")).mean().item()}

        reporter = train(pair, pool, after_epoch=measure if number % 2 else no_measurement)
        assert all(("mean" in metrics) == bool(number % 2) for _, _, metrics in reporter.reports)
    assert equal_states(pairs[0].state(), pairs[1].state())
    assert equal_states(pairs[2].state(), pairs[3].state())


# Several workers


DISTRIBUTED = replace(MATCHING, epochs=1, batch_size=12, weight=2.0)


def distill_shard(
    collective: Collective, num_teachers: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], RecordingReporter]:
    """Returns the weights, the last step's averaged gradients, and what was reported."""
    numbers = range(num_teachers)
    teachers = make_teachers(DATASET, [1 + number % 2 for number in numbers])
    mine = [teachers[number] for number in shard(numbers, collective)]
    pair = make_plain_pair(DATASET, ema_decay=DECAY, learning_rate=LEARNING_RATE)
    reporter = train(
        pair,
        TeacherPool(mine, DATASET) if mine else None,
        DISTRIBUTED,
        shard_weight=shard_weight(numbers, collective),
        collective=collective,
    )
    gradients = {
        f"{kind}.{name}": parameter.grad
        for kind, network in (("generator", pair.generator), ("discriminator", pair.discriminator))
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return pair.weights(), gradients, reporter


@pytest.mark.parametrize(("num_teachers", "num_workers"), [(3, 2), (1, 2), (5, 3)])
def test_workers_train_as_one_that_computes_every_share_itself(num_teachers: int, num_workers: int) -> None:
    results = workers().run(num_workers, distill_shard, num_teachers)
    pair = make_plain_pair(DATASET, ema_decay=DECAY, learning_rate=LEARNING_RATE)
    networks = plain_networks(pair)
    teachers = make_teachers(DATASET, [1 + number % 2 for number in range(num_teachers)])
    losses, gradients = reference.matching_losses(
        networks,
        DISTRIBUTED,
        PRIOR,
        DATASET,
        drawing([teachers[rank::num_workers] for rank in range(num_workers)], DISTRIBUTED),
        shard_weights=[len(teachers[rank::num_workers]) * num_workers / num_teachers for rank in range(num_workers)],
        learning_rate=LEARNING_RATE,
        decay=DECAY,
    )
    weights, found, _ = results[0]
    for kind, network in zip(("generator", "average", "discriminator"), networks, strict=True):
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(weights[f"{kind}.{name}"], parameter.detach(), atol=1e-4, rtol=1e-4)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
    for rank, (own_weights, own_gradients, reporter) in enumerate(results):
        # What is reported are a worker's own losses, so they are compared with its own share.
        reported = {name: value for name, value in reporter.reports[-1][2].items() if name.endswith("_loss")}
        assert reported == pytest.approx(losses[-1][rank], rel=1e-5, abs=1e-5)
        assert equal_states(own_weights, weights), f"worker {rank} has another generator than worker 0"
        assert equal_states(own_gradients, found)
