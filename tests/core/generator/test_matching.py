from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import HealthConfig, MatchingConfig, MatchingKind, PoolConfig, PriorConfig
from dim_ray.core.data.augment import Augmentation, augment, draw_augmentation
from dim_ray.core.data.dataset import Dataset, signed
from dim_ray.core.generator.distances import DISTANCES
from dim_ray.core.generator.matching import Distillation, matching_loss
from dim_ray.core.generator.pair import Pair
from dim_ray.core.generator.paper import PaperGenerator
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.teachers import snapshots
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import DrawnTeacher, StoredPool, TeacherPool, shard, shard_weight
from dim_ray.core.teachers.teacher import Teacher
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Collective, Ports, SingleWorker
from dim_ray.core.training.random import derive_seed, stream
from tests.helpers import reference
from tests.helpers.gloo_workers import workers
from tests.helpers.tiny import (
    ARCHITECTURE,
    GENERATOR,
    MATCHING,
    POOL,
    PRIOR,
    RecordingReporter,
    equal_states,
    make_dataset,
    make_pair,
    make_plain_pair,
    make_teachers,
    train_teachers,
)

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
    *,
    collective: Collective | None = None,
    measure: Callable[[int], Mapping[str, float]] = no_measurement,
) -> RecordingReporter:
    ports = Ports(reporter=(reporter := RecordingReporter()), collective=collective or SingleWorker())
    stage = Distillation(
        pair, pool, config, prior, dataset, health=HealthConfig(), collective=ports.collective, measure=measure
    )
    run_epochs(stage, dataset.train, ports)
    return reporter


def build(architecture: str, rng: torch.Generator, dataset: Dataset = DATASET) -> nn.Module:
    return build_network(architecture, dataset, rng)


def load(teacher: Teacher, number: int, dataset: Dataset = DATASET) -> nn.Module:
    """Return a snapshot as a separate network."""
    network = build(teacher.architecture, stream(99), dataset)
    network.load_state_dict(dict(teacher.snapshots[number]))
    return network.eval().requires_grad_(False)


def augmentations(config: MatchingConfig, rng: torch.Generator) -> list[Augmentation]:
    return [draw_augmentation(config.augmentation, rng) for _ in range(config.teachers_per_step)]


def drawing(shards: list[list[Teacher]], config: MatchingConfig) -> reference.Draw:
    """Return the draws of each worker: parameters of the augmentations first, then teachers and their snapshots."""

    def draw(rank: int, number: int) -> list[tuple[Augmentation, nn.Module]]:
        if not shards[rank]:
            return []
        rng = stream(config.seed, "pool", rank, step=number)
        drawn = []
        for augmentation in augmentations(config, rng):
            teacher = shards[rank][int(torch.randint(len(shards[rank]), (), generator=rng))]
            drawn.append((augmentation, load(teacher, int(torch.randint(len(teacher.snapshots), (), generator=rng)))))
        return drawn

    return draw


def drawing_online(
    pool: PoolConfig, architectures: tuple[str, ...], config: MatchingConfig, num_workers: int, dataset: Dataset
) -> reference.Draw:
    """Return the draws of each worker from networks that it trains itself, to be called step by step."""
    num_images = len(dataset.train)
    training: dict[tuple[int, int, int], tuple[int, nn.Module, reference.Momentum]] = {}

    def begin(rank: int, epoch: int, number: int) -> tuple[int, nn.Module, reference.Momentum]:
        seed = derive_seed(pool.seed, "online", rank, epoch, number)
        which = int(torch.randint(len(architectures), (), generator=stream(seed, "architecture")))
        network = build(architectures[which], stream(seed, "weights"), dataset).train()
        return seed, network, reference.Momentum(network, pool.learning_rate, pool.momentum, pool.weight_decay)

    def trained(rank: int, step: int, number: int) -> nn.Module:
        epoch, index = divmod(step, num_images // config.batch_size)
        if (rank, epoch, number) not in training:
            training[rank, epoch, number] = begin(rank, epoch, number)
        seed, network, optimizer = training[rank, epoch, number]
        for inner in range(index * pool.online_steps, (index + 1) * pool.online_steps):
            which, first = divmod(inner, num_images // pool.batch_size)
            if pool.online_order == "reshuffled":  # three steps are one pass of two batches, and one of the next
                which, first = {0: (0, 0), 1: (0, 1), 2: (1, 0)}[inner % 3]
                which += 2 * index
            order = torch.randperm(num_images, generator=stream(seed, "order", step=which))
            batch = order[first * pool.batch_size : (first + 1) * pool.batch_size]
            images = reference.normalise(dataset.train.images[batch] / 255, dataset)
            images = augment(images, pool.augmentation, stream(seed, "augment", step=inner))
            logits = torch.cat([network(image[None]) for image in images])
            optimizer.step(reference.cross_entropy(logits, dataset.train.labels[batch]))
        return copy.deepcopy(network).eval().requires_grad_(False)

    def draw(rank: int, step: int) -> list[tuple[Augmentation, nn.Module]]:
        changes = augmentations(config, stream(config.seed, "pool", rank, step=step))
        return [(change, trained(rank, step, number)) for number, change in enumerate(changes)]

    return draw


def plain_networks(pair: Pair) -> reference.Networks:
    networks = copy.deepcopy((pair.generator.train(), pair.average, pair.discriminator))
    for network in networks:
        network.requires_grad_(True)
    return networks


@pytest.mark.parametrize(
    ("augmentation", "discriminator_steps", "gradient_penalty_every"),
    [("none", 1, 1), ("color|crop|cutout|flip|scale|rotate", 1, 3), ("flip+color+rotate", 2, 3)],
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
    reporter = train(pair, StoredPool(teachers, dataset, weight=1.5), config, dataset, prior)
    assert_same(pair, reporter, networks, expected)


def assert_same(
    pair: Pair,
    reporter: RecordingReporter,
    networks: reference.Networks,
    expected: list[list[Mapping[str, float]]],
    steps_per_epoch: int = 1,
) -> None:
    """Compare the losses that are reported, those of each epoch's last step, and the weights at the end."""
    expected = expected[steps_per_epoch - 1 :: steps_per_epoch]
    for name in ("discriminator_loss", "generator_loss", "matching_loss"):
        assert reporter.losses(name) == pytest.approx([losses[name] for (losses,) in expected], rel=1e-5, abs=1e-5)
    for module, slow in zip((pair.generator, pair.average, pair.discriminator), networks, strict=True):
        torch.testing.assert_close(module.state_dict(), slow.state_dict(), atol=1e-5, rtol=1e-4)


ALL = "color|crop|cutout|flip|scale|rotate"
ONLINE = replace(POOL, kind="online", online_steps=3, batch_size=4, learning_rate=0.1, augmentation=ALL)
ARCHITECTURES = ("convnet3_w8", "convnet3_w4")


@pytest.mark.parametrize("pool_kind", ["stored", "online"])
@pytest.mark.parametrize("kind", DISTANCES)
def test_every_kind_is_that_of_the_slow_reference(kind: MatchingKind, pool_kind: str) -> None:
    dataset = make_dataset(per_class=3)
    config = replace(
        MATCHING,
        kind=kind,
        weight=20.0 if kind.startswith("logit") else 0.5,  # so that each of them moves the generator
        temperature=2.5,
        standardised=True,
        teachers_per_step=2,
        batch_size=4,
        augmentation="color|crop|cutout|flip|scale|rotate",
    )
    pair = make_plain_pair(dataset, learning_rate=LEARNING_RATE)
    networks = plain_networks(pair)
    pool: TeacherPool
    weight = 1.5 if pool_kind == "stored" else 1.0
    if pool_kind == "stored":
        teachers = make_teachers(dataset, [2, 1, 3])
        pool, draw = StoredPool(teachers, dataset, weight=weight), drawing([teachers], config)
    else:
        pool = OnlinePool(ONLINE, ARCHITECTURES, dataset, steps_per_epoch=2, rank=0)
        draw = drawing_online(ONLINE, ARCHITECTURES, config, 1, dataset)
    expected, _ = reference.matching_losses(
        networks, config, PRIOR, dataset, draw, shard_weights=[weight], learning_rate=LEARNING_RATE, decay=0.0
    )
    assert len(expected) == 4
    assert all(own["matching_loss"] > 1e-5 for (own,) in expected)
    reporter = train(pair, pool, config, dataset)
    assert_same(pair, reporter, networks, expected, steps_per_epoch=2)


@pytest.mark.parametrize("kind", ["logits", "logit_moments", "features"])
def test_distillation_as_in_the_reference_code_is_that_of_the_slow_reference(kind: MatchingKind) -> None:
    dataset = make_dataset(per_class=3).normalised("dim_signed")
    weight = 2.0 if kind.startswith("logit") else 0.5
    config = replace(MATCHING, kind=kind, weight=weight, batch_size=4, augmentation="color+crop+cutout")
    prior = replace(PRIOR, class_loss_on="both", first="generator", uniform_labels="discriminator")
    online = replace(ONLINE, online_order="reshuffled", online_mode="train", augmentation="color+crop")
    pair = make_plain_pair(dataset, learning_rate=LEARNING_RATE)
    networks = plain_networks(pair)
    draw = drawing_online(online, ARCHITECTURES, config, 1, dataset)
    expected, _ = reference.matching_losses(
        networks, config, prior, dataset, draw, shard_weights=[1.0], learning_rate=LEARNING_RATE, decay=0.0
    )
    assert all(own["matching_loss"] > 1e-5 for (own,) in expected)
    pool = OnlinePool(online, ARCHITECTURES, dataset, steps_per_epoch=2, rank=0)
    reporter = train(pair, pool, config, dataset, prior)
    assert_same(pair, reporter, networks, expected, steps_per_epoch=2)


class Echo(PaperGenerator):
    """Generates the real images of its labels."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(GENERATOR, num_classes=3, num_channels=1, image_size=8)
        self._dataset = dataset

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        first = (self._dataset.train.labels == labels[:, None]).int().argmax(dim=1)
        return signed(self._dataset.train.images[first]) + 0 * next(self.parameters()).sum()


@pytest.mark.parametrize("operation", ["color", "crop", "cutout", "flip", "rotate", "scale"])
def test_both_halves_are_changed_in_the_same_way(operation: str) -> None:
    # One image per class: the generator's images of the labels are then the real ones, in the same order.
    dataset = make_dataset(per_class=1)
    generator = Echo(dataset)
    pair = replace(make_plain_pair(dataset), generator=generator, average=generator)
    pool = StoredPool(make_teachers(dataset, [1]), dataset)
    [teacher] = pool.draw(0, 1, stream(0))
    shown: list[Tensor] = []
    teacher.network.register_forward_pre_hook(lambda network, given: shown.append(given[0].detach()))
    config = replace(MATCHING, batch_size=3, epochs=4, augmentation=operation)
    reporter = train(pair, pool, config, dataset)
    assert reporter.losses("matching_loss") == pytest.approx([0.0] * 4, abs=1e-6)
    assert len(shown) == 8
    changes = []
    for number, (real, generated) in enumerate(zip(shown[::2], shown[1::2], strict=True)):
        torch.testing.assert_close(real, generated, atol=1e-4, rtol=1e-4)
        batch = reference.order("matching", config.seed, number, 3)
        plain = reference.normalise(dataset.train.images[batch] / 255, dataset)
        changes.append((real - plain).abs().max().item())
    assert max(changes) > 0.1, "nothing was augmented"


def test_each_teacher_of_a_step_has_its_own_augmentation() -> None:
    dataset = make_dataset(per_class=1)
    pool = StoredPool(make_teachers(dataset, [1]), dataset)
    [teacher] = pool.draw(0, 1, stream(0))
    shown: list[Tensor] = []
    teacher.network.register_forward_pre_hook(lambda network, given: shown.append(given[0].detach()))
    config = replace(MATCHING, batch_size=3, epochs=1, augmentation="color", teachers_per_step=3)
    train(make_plain_pair(dataset), pool, config, dataset)
    real = shown[::2]
    assert len(shown) == 6
    assert not any(torch.equal(real[first], real[second]) for first in range(3) for second in range(first))


def test_teachers_are_passed_in_the_precision_asked_for() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = replace(MATCHING, precision=precision, epochs=1)
        reporter = train(make_plain_pair(DATASET), StoredPool(make_teachers(DATASET, [2]), DATASET), config)
        (losses[precision],) = reporter.losses("matching_loss")
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)


def test_matching_does_not_change_teachers() -> None:
    teachers = make_teachers(DATASET, [1, 2], "resnet10_w4")
    before = copy.deepcopy([dict(snapshot) for teacher in teachers for snapshot in teacher.snapshots])
    train(make_pair(DATASET), StoredPool(teachers, DATASET))
    after = [dict(snapshot) for teacher in teachers for snapshot in teacher.snapshots]
    assert all(equal_states(first, second) for first, second in zip(before, after, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_weights_and_losses_do_not_depend_on_where_snapshots_stay(share: float) -> None:
    config = replace(MATCHING, teachers_per_step=2, weight=20.0, augmentation="color|crop|cutout|flip|scale|rotate")
    teachers = make_teachers(DATASET, [2, 1, 3], "resnet10_w4")
    sizes = [sum(t.nbytes for t in snapshot.values()) for teacher in teachers for snapshot in teacher.snapshots]
    results = []
    for limit_bytes in (None, int(share * sum(sizes))):
        pair = make_pair(DATASET)
        reporter = train(pair, StoredPool(teachers, DATASET, limit_bytes=limit_bytes), config)
        results.append((pair.state(), reporter.reports))
    assert equal_states(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


class Watched(StoredPool):
    """A pool whose snapshots are all on the host, and which records draws, copies and uses in their order."""

    def __init__(self, teachers: Sequence[Teacher], monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        monkeypatch.setattr(snapshots, "_copier", lambda device: self._begin)
        super().__init__(teachers, DATASET, limit_bytes=0)

    def _begin(self, data: Tensor) -> Callable[[], Tensor]:
        self.events.append("copy")
        return data.clone

    def draw(self, step: int, count: int, rng: torch.Generator) -> Sequence[DrawnTeacher]:
        self.events.append(f"draw {step}")
        drawn = super().draw(step, count, rng)
        for teacher in drawn:
            teacher.network.register_forward_pre_hook(lambda network, given: self.events.append("use"))
        self.events.append("drawn")
        return drawn


@pytest.mark.parametrize("augmentation", ["none", "color|crop|cutout|flip|scale|rotate", "flip+crop"])
def test_teachers_of_the_next_step_are_being_copied_before_those_of_this_step_are_used(
    augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Watched(make_teachers(DATASET, [1] * 50), monkeypatch)  # with which no step draws the last one's again
    train(make_pair(DATASET), pool, replace(MATCHING, augmentation=augmentation))
    steps = " ".join(pool.events).split("draw ")[1:]
    assert len(steps) == 6
    for number, step in enumerate(steps):
        before, _, after = step.partition(" drawn ")
        assert before == (f"{number} copy" if number == 0 else f"{number}"), "only the first step waits for a copy"
        assert after.split()[:2] == ["copy", "use"]
        assert after.count("copy") == 1


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
        lambda rank, number: [],
        shard_weights=[1.0],
        learning_rate=LEARNING_RATE,
        decay=0.0,
    )
    reporter = train(pair, None, config, dataset)
    assert reporter.losses("generator_loss") == pytest.approx([own["generator_loss"] for (own,) in expected], abs=1e-5)
    assert all("matching_loss" not in metrics for _, _, metrics in reporter.reports)


def test_measuring_an_epoch_does_not_change_the_training() -> None:
    pairs = [make_pair(DATASET, ema_decay=decay) for decay in (0.0, 0.0, 0.5, 0.5)]
    pool = StoredPool(make_teachers(DATASET, [2]), DATASET)
    for number, pair in enumerate(pairs):

        def measure(epoch: int, pair: Pair = pair) -> Mapping[str, float]:
            pair.average.eval()
            with torch.no_grad():
                return {"mean": pair.average.sample(torch.tensor([0, 1]), stream(0, "measure")).mean().item()}

        reporter = train(pair, pool, measure=measure if number % 2 else no_measurement)
        assert all(("mean" in metrics) == bool(number % 2) for _, _, metrics in reporter.reports)
    assert equal_states(pairs[0].state(), pairs[1].state())
    assert equal_states(pairs[2].state(), pairs[3].state())


# Several workers


DISTRIBUTED = replace(MATCHING, epochs=1, batch_size=12, weight=2.0)


def distill_shard(
    collective: Collective, kind: MatchingKind, num_teachers: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], RecordingReporter]:
    """Return the weights, the last step's averaged gradients, and the reports; 0 teachers are online ones."""
    numbers = range(num_teachers)
    teachers = make_teachers(DATASET, [1 + number % 2 for number in numbers])
    mine = [teachers[number] for number in shard(numbers, collective)]
    pair = make_plain_pair(DATASET, ema_decay=DECAY, learning_rate=LEARNING_RATE)
    pool: TeacherPool | None = StoredPool(mine, DATASET, weight=shard_weight(numbers, collective)) if mine else None
    if num_teachers == 0:
        pool = OnlinePool(ONLINE, ARCHITECTURES, DATASET, steps_per_epoch=2, rank=collective.rank)
    reporter = train(pair, pool, replace(DISTRIBUTED, kind=kind), collective=collective)
    gradients = {
        f"{prefix}.{name}": parameter.grad
        for prefix, network in (("generator", pair.generator), ("discriminator", pair.discriminator))
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return pair.weights(), gradients, reporter


@pytest.mark.parametrize(
    ("kind", "num_teachers", "num_workers"),
    [
        ("logits", 3, 2),
        ("logits", 1, 2),
        ("logits", 5, 3),
        ("logit_moments", 3, 2),
        ("features", 3, 2),
        ("gradients", 3, 2),
        ("logits", 0, 2),
        ("gradients", 0, 3),
    ],
)
def test_workers_train_as_one_that_computes_every_share_itself(
    kind: MatchingKind, num_teachers: int, num_workers: int
) -> None:
    results = workers().run(num_workers, distill_shard, kind, num_teachers)
    config = replace(DISTRIBUTED, kind=kind)
    pair = make_plain_pair(DATASET, ema_decay=DECAY, learning_rate=LEARNING_RATE)
    networks = plain_networks(pair)
    teachers = make_teachers(DATASET, [1 + number % 2 for number in range(num_teachers)])
    shards = [teachers[rank::num_workers] for rank in range(num_workers)]
    if num_teachers:
        draw = drawing(shards, config)
        weights_of_shards = [len(own) * num_workers / num_teachers for own in shards]
    else:
        draw = drawing_online(ONLINE, ARCHITECTURES, config, num_workers, DATASET)
        weights_of_shards = [1.0] * num_workers
    losses, gradients = reference.matching_losses(
        networks,
        config,
        PRIOR,
        DATASET,
        draw,
        shard_weights=weights_of_shards,
        learning_rate=LEARNING_RATE,
        decay=DECAY,
    )
    weights, found, _ = results[0]
    for prefix, network in zip(("generator", "average", "discriminator"), networks, strict=True):
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(weights[f"{prefix}.{name}"], parameter.detach(), atol=1e-4, rtol=1e-4)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        # Cosines of gradients that nearly vanish make much of rounding: of 1e-7 in the weights, up to 1e-4.
        tolerance = 5e-4 if kind == "gradients" else 1e-4
        torch.testing.assert_close(found[name], gradient, atol=tolerance, rtol=1e-3)
    for rank, (own_weights, own_gradients, reporter) in enumerate(results):
        # A worker reports its own losses.
        reported = {name: value for name, value in reporter.reports[-1][2].items() if name.endswith("_loss")}
        assert reported == pytest.approx(losses[-1][rank], rel=1e-5, abs=1e-5)
        assert equal_states(own_weights, weights), f"worker {rank} has another generator than worker 0"
        assert equal_states(own_gradients, found)


def gradient_sizes(config: PoolConfig, dataset: Dataset) -> list[float]:
    """Return the size of the matching loss's gradient on noise, for each snapshot of a teacher."""
    [teacher] = train_teachers(config, [0], ARCHITECTURE, dataset, Ports())
    fake = (2 * torch.rand(dataset.train.images.shape, generator=stream(0)) - 1).requires_grad_()
    network = build(ARCHITECTURE, stream(0), dataset).eval()
    sizes = []
    for snapshot in teacher.snapshots:
        drawn = DrawnTeacher(network=network, tensors=snapshot)
        same = draw_augmentation("none", stream(0))
        loss = matching_loss([(drawn, same)], MATCHING, dataset, dataset.train.images, fake, dataset.train.labels)
        sizes.append(torch.autograd.grad(loss, fake)[0].norm().item())
    return sizes


def test_most_snapshots_of_a_pool_have_a_gradient() -> None:
    dataset = make_dataset(per_class=20)
    config = replace(POOL, epochs=20, batch_size=20, num_snapshots=8, learning_rate=0.05, augmentation="none")
    sizes = gradient_sizes(config, dataset)
    assert sum(size > 0.1 * max(sizes) for size in sizes) == 5
    sizes = gradient_sizes(replace(config, snapshot_spacing="logarithmic"), dataset)
    assert sum(size > 0.1 * max(sizes) for size in sizes) == 2
