from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import PoolConfig
from dim_ray.core.data.augment import augment
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks import classifiers
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.teachers.pool import DrawnTeacher, StoredPool, shard, shard_weight
from dim_ray.core.teachers.teacher import Teacher, snapshot_steps
from dim_ray.core.training.ports import Ports, SingleWorker
from dim_ray.core.training.random import derive_seed, stream
from tests.helpers import reference
from tests.helpers.tiny import (
    ARCHITECTURE,
    NUM_STEPS,
    POOL,
    OneOfSeveral,
    RecordingReporter,
    accuracy,
    equal_states,
    make_dataset,
    make_teachers,
    train_teachers,
)

DATASET = make_dataset()
RESNET = "resnet10_w4"


def train(
    config: PoolConfig = POOL, number: int = 0, architecture: str = ARCHITECTURE, dataset: Dataset = DATASET
) -> tuple[Teacher, RecordingReporter]:
    reporter = RecordingReporter()
    [teacher] = train_teachers(config, [number], architecture, dataset, Ports(reporter=reporter))
    return teacher, reporter


def load(teacher: Teacher, index: int, dataset: Dataset = DATASET) -> nn.Module:
    network = build_network(teacher.architecture, dataset, stream(99))
    network.load_state_dict(dict(teacher.snapshots[index]))
    return network.eval()


@pytest.mark.parametrize("augmentation", ["none", "color|crop|cutout|flip|scale|rotate", "flip+color"])
def test_losses_and_snapshots_are_those_of_the_slow_reference(augmentation: str) -> None:
    dataset = make_dataset(per_class=3)
    config = replace(POOL, epochs=4, batch_size=9, num_snapshots=2, learning_rate=0.05, augmentation=augmentation)
    teacher, reporter = train(config, number=2, dataset=dataset)
    seed = derive_seed(config.seed, "teacher", 2)
    network = build_network(ARCHITECTURE, dataset, stream(seed, "weights"))
    optimizer = reference.Momentum(network, 0.05, config.momentum, config.weight_decay)
    losses, snapshots = [], {}
    for step in range(4):
        batch = reference.order("teacher", seed, step, 9)
        images = reference.normalise(dataset.train.images[batch] / 255, dataset)
        images = augment(images, augmentation, stream(seed, "augment", step=step))
        logits = torch.cat([network(image[None]) for image in images])
        loss = reference.cross_entropy(logits, dataset.train.labels[batch])
        optimizer.step(loss)
        losses.append(loss.item())
        snapshots[step + 1] = copy.deepcopy(network.state_dict())
    assert reporter.losses("loss") == pytest.approx(losses, abs=1e-5)
    assert teacher.steps == [2, 4]
    for step, snapshot in zip(teacher.steps, teacher.snapshots, strict=True):
        torch.testing.assert_close(dict(snapshot), dict(snapshots[step]), atol=1e-5, rtol=1e-4)


def test_teacher_learns_from_early_to_late() -> None:
    dataset = make_dataset(per_class=20)
    config = replace(POOL, epochs=15, batch_size=20, num_snapshots=4, learning_rate=0.2, augmentation="none")
    teacher, reporter = train(config, dataset=dataset)
    losses = reporter.losses("loss")
    assert losses[-1] < 0.5 * losses[0]
    assert teacher.validation_accuracy > 0.9
    accuracies = [accuracy(load(teacher, index, dataset), dataset.test, dataset.normalisation) for index in range(4)]
    assert accuracies[0] < accuracies[-1]
    assert accuracies[-1] > 0.9


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESNET])
def test_snapshots_are_distinct_and_the_last_is_what_was_validated(architecture: str) -> None:
    teacher, _ = train(architecture=architecture)
    assert teacher.steps == snapshot_steps(NUM_STEPS, POOL.num_snapshots)
    assert len(teacher.snapshots) == len(teacher.steps)
    for first in range(len(teacher.steps)):
        for second in range(first):
            assert not equal_states(teacher.snapshots[first], teacher.snapshots[second])
    last = load(teacher, -1)
    correct = [
        last(reference.normalise(image[None] / 255, DATASET)).argmax().item() == label
        for image, label in zip(DATASET.validation.images, DATASET.validation.labels.tolist(), strict=True)
    ]
    assert teacher.validation_accuracy == pytest.approx(sum(correct) / len(correct))


def test_snapshots_are_complete_and_share_no_memory() -> None:
    teacher, _ = train(architecture=RESNET)
    tensors = [tensor for snapshot in teacher.snapshots for tensor in snapshot.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    pointers = [tensor.data_ptr() for tensor in tensors]
    assert len(set(pointers)) == len(pointers)
    assert set(teacher.snapshots[0]) == set(build_network(RESNET, DATASET, stream(0)).state_dict())


def test_teachers_are_reproducible_and_differ_by_number_and_seed() -> None:
    snapshots = [
        train(config, number)[0].snapshots[-1]
        for config, number in ((POOL, 0), (POOL, 0), (POOL, 1), (replace(POOL, seed=9), 0))
    ]
    assert equal_states(snapshots[0], snapshots[1])
    assert not equal_states(snapshots[0], snapshots[2])
    assert not equal_states(snapshots[0], snapshots[3])


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESNET])
@pytest.mark.parametrize("augmentation", ["none", "color|crop|cutout|flip|scale|rotate"])
def test_teachers_at_once_are_those_of_one_by_one(architecture: str, augmentation: str) -> None:
    config = replace(POOL, augmentation=augmentation)
    reporter = RecordingReporter()
    numbers = (3, 0, 5)
    together = train_teachers(config, numbers, architecture, DATASET, Ports(reporter=reporter))
    one_by_one = [train(config, number, architecture) for number in numbers]
    losses = [own.losses("loss") for _, own in one_by_one]
    assert reporter.losses("loss") == pytest.approx([sum(each) / 3 for each in zip(*losses, strict=True)], rel=1e-4)
    for found, (expected, _) in zip(together, one_by_one, strict=True):
        assert found.steps == expected.steps
        assert found.validation_accuracy == pytest.approx(expected.validation_accuracy, abs=1 / len(DATASET.validation))
        for ours, theirs in zip(found.snapshots, expected.snapshots, strict=True):
            assert ours.keys() == theirs.keys()
            torch.testing.assert_close(dict(ours), dict(theirs), rtol=1e-3, atol=1e-4)
    pointers = [tensor.data_ptr() for own in together for each in own.snapshots for tensor in each.values()]
    assert len(set(pointers)) == len(pointers)


def test_number_of_teachers_does_not_change_a_teacher() -> None:
    assert equal_states(train(POOL)[0].snapshots[-1], train(replace(POOL, size=64))[0].snapshots[-1])


@pytest.mark.parametrize(
    ("num_steps", "num_snapshots", "steps"),
    [
        (100, 1, [100]),
        (100, 2, [10, 100]),
        (1000, 3, [10, 100, 1000]),
        (10_000, 4, [10, 100, 1000, 10_000]),
        (16, 4, [2, 4, 8, 16]),
        (1, 1, [1]),
        (1, 5, [1]),
        (2, 5, [1, 2]),
        (3, 3, [1, 2, 3]),
    ],
)
def test_snapshots_are_taken_at_powers_of_one_ratio(num_steps: int, num_snapshots: int, steps: list[int]) -> None:
    assert snapshot_steps(num_steps, num_snapshots, "logarithmic") == steps


@pytest.mark.parametrize(
    ("num_steps", "num_snapshots", "steps"),
    [(100, 1, [100]), (100, 4, [25, 50, 75, 100]), (10, 3, [3, 7, 10]), (3, 5, [1, 2, 3]), (1, 4, [1])],
)
def test_snapshots_of_linear_spacing_are_taken_at_equal_distances(
    num_steps: int, num_snapshots: int, steps: list[int]
) -> None:
    assert snapshot_steps(num_steps, num_snapshots) == steps


def test_teacher_keeps_the_snapshots_of_its_spacing() -> None:
    config = replace(POOL, num_snapshots=2)
    assert train(config)[0].steps == [NUM_STEPS // 2, NUM_STEPS]
    assert train(replace(config, snapshot_spacing="logarithmic"))[0].steps == [round(NUM_STEPS**0.5), NUM_STEPS]


def test_snapshot_steps_are_distinct_increasing_and_end_with_the_last() -> None:
    for num_steps in (1, 2, 3, 5, 7, 11, 20, 64, 390, 19_500):
        for num_snapshots in range(1, 12):
            steps = snapshot_steps(num_steps, num_snapshots)
            assert steps[-1] == num_steps
            assert steps[0] >= 1
            assert steps == sorted(set(steps))
            assert len(steps) <= num_snapshots
            assert all(isinstance(step, int) for step in steps)
    assert len(snapshot_steps(19_500, 8)) == 8


def marked(dataset: Dataset, snapshots: list[int], architecture: str = ARCHITECTURE) -> list[Teacher]:
    """Return teachers whose snapshots all have different logits, whatever the image."""
    teachers = make_teachers(dataset, snapshots, architecture)
    for number, teacher in enumerate(teachers):
        for index, snapshot in enumerate(teacher.snapshots):
            *_, weight, bias = snapshot.values()
            weight.zero_()
            bias.copy_(torch.tensor([float(number), float(index), 0.0]))
    return teachers


def draw(pool: StoredPool, rng: torch.Generator) -> DrawnTeacher:
    [teacher] = pool.draw(0, 1, rng)
    return teacher


def test_draws_are_uniform_over_teachers_and_then_over_their_snapshots() -> None:
    pool = StoredPool(marked(DATASET, [1, 3]), DATASET)
    assert len(pool) == 2
    rng, image = stream(0, "draws"), torch.zeros(1, 1, 8, 8)
    draws = Counter(tuple(draw(pool, rng)(image)[0, :2].tolist()) for _ in range(1200))
    expected = {(0.0, 0.0): 600, (1.0, 0.0): 200, (1.0, 1.0): 200, (1.0, 2.0): 200}
    assert draws.keys() == expected.keys()
    for mark, count in expected.items():
        assert abs(draws[mark] - count) < 5 * count**0.5


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RESNET])
def test_draw_is_the_snapshot_in_eval_mode_with_a_gradient_to_the_images(architecture: str) -> None:
    teachers = make_teachers(DATASET, [1, 1], architecture)
    if architecture == RESNET:  # statistics of its own, so that it matters which are used
        for teacher in teachers:
            for name, tensor in teacher.snapshots[0].items():
                if "running_mean" in name:
                    tensor.normal_(generator=stream(1, name))
    before = copy.deepcopy([dict(teacher.snapshots[0]) for teacher in teachers])
    pool = StoredPool(teachers, DATASET)
    images = torch.randn(3, 1, 8, 8, generator=stream(0), requires_grad=True)
    rng, same = stream(3), stream(3)
    for _ in range(4):
        number = int(torch.randint(2, (), generator=same))
        torch.randint(1, (), generator=same)
        logits = draw(pool, rng)(images)
        expected = torch.cat([load(teachers[number], 0)(image[None]) for image in images])
        torch.testing.assert_close(logits, expected)
        images.grad = None
        logits.sum().backward()
        assert images.grad is not None
    assert all(equal_states(a, t.snapshots[0]) for a, t in zip(before, teachers, strict=True))


def test_several_draws_of_a_step_are_independent() -> None:
    pool = StoredPool(marked(DATASET, [1, 3]), DATASET)
    rng, same, image = stream(0), stream(0), torch.zeros(1, 1, 8, 8)
    together = [teacher(image) for teacher in pool.draw(0, 40, rng)]
    one_by_one = [draw(pool, same)(image) for _ in range(40)]
    torch.testing.assert_close(together, one_by_one, atol=0, rtol=0)
    assert len({tuple(logits[0].tolist()) for logits in together}) == 4


def test_pool_may_mix_architectures() -> None:
    first, second = marked(DATASET, [1, 1])
    third = marked(DATASET, [1, 1, 1], RESNET)[2]
    pool = StoredPool([first, second, third], DATASET)
    rng, image = stream(0), torch.zeros(1, 1, 8, 8)
    assert {draw(pool, rng)(image)[0, 0].item() for _ in range(50)} == {0.0, 1.0, 2.0}


def test_draw_keeps_its_snapshot_when_another_is_drawn() -> None:
    pool = StoredPool(marked(DATASET, [1, 1]), DATASET)
    rng, image = stream(0), torch.zeros(1, 1, 8, 8)
    classifiers = [draw(pool, rng) for _ in range(20)]
    early = [classifier(image)[0, 0].item() for classifier in classifiers]
    assert early == [classifier(image)[0, 0].item() for classifier in classifiers]
    assert set(early) == {0.0, 1.0}


def test_pool_on_the_device_does_not_draw_the_next_step_ahead() -> None:
    pool = StoredPool(marked(DATASET, [1, 3]), DATASET)
    pool.prefetch(1, lambda: pytest.fail("drew ahead"))


def test_pool_takes_any_iterable_of_teachers() -> None:
    pool = StoredPool(iter(marked(DATASET, [1, 3])), DATASET, limit_bytes=0)
    assert len(pool) == 2


def test_snapshot_that_lacks_a_tensor_is_an_error() -> None:
    teacher = make_teachers(DATASET, [1])[0]
    name = next(iter(teacher.snapshots[0]))
    spoilt = replace(teacher, snapshots=[{k: v for k, v in teacher.snapshots[0].items() if k != name}])
    with pytest.raises(RuntimeError, match=name):
        draw(StoredPool([spoilt], DATASET), stream(0))(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("batch", [1, 5, 12, 1000])
def test_accuracy_is_the_share_of_right_answers_whatever_the_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "_TEST_BATCH", batch)
    split = DATASET.test
    sizes = []

    def by_brightness(images: Tensor) -> Tensor:
        sizes.append(len(images))
        assert images.dtype == torch.float32
        assert not torch.is_grad_enabled()
        means = images.mean(dim=(1, 2, 3))
        return torch.stack([-means, means, means * 0], dim=1)

    dark = [reference.normalise(image[None] / 255, DATASET).mean().item() for image in split.images]
    answers = [0 if mean < 0 else 1 for mean in dark]
    expected = sum(a == b for a, b in zip(answers, split.labels.tolist(), strict=True)) / len(split)
    found = accuracy(by_brightness, split, DATASET.normalisation)
    assert isinstance(found, float)
    assert found == pytest.approx(expected)
    assert sum(sizes) == len(split)
    assert max(sizes) <= batch


def test_teacher_reports_every_epoch() -> None:
    _, reporter = train()
    assert [(step, total) for step, total, _ in reporter.reports] == [(1, 2), (2, 2)]
    assert all(set(metrics) == {"loss"} for _, _, metrics in reporter.reports)


def test_training_neither_reads_nor_changes_the_global_random_state() -> None:
    results: list[Any] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(train()[0].snapshots[-1])
        assert torch.equal(torch.get_rng_state(), before)
    assert equal_states(*results)


# Shards


@pytest.mark.parametrize(("num_teachers", "num_workers"), [(1, 1), (3, 2), (8, 3), (7, 4), (2, 3), (1, 4), (64, 5)])
def test_every_teacher_is_in_one_shard_and_counts_the_same(num_teachers: int, num_workers: int) -> None:
    numbers = range(num_teachers)
    collectives = [OneOfSeveral(rank, num_workers) for rank in range(num_workers)]
    shards = [shard(numbers, collective) for collective in collectives]
    counts = dict.fromkeys(numbers, 0.0)
    for collective, mine in zip(collectives, shards, strict=True):
        for number in mine:
            # A worker draws uniformly from its shard, and its gradients are one of the workers' mean.
            counts[number] += shard_weight(numbers, collective) / len(mine) / num_workers
    assert counts == pytest.approx(dict.fromkeys(numbers, 1 / num_teachers))
    assert sorted(number for mine in shards for number in mine) == list(numbers)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_worker_r_of_w_holds_every_wth_teacher_from_r_on() -> None:
    assert [list(shard(range(5), OneOfSeveral(rank, 3))) for rank in range(3)] == [[0, 3], [1, 4], [2]]
    assert [shard_weight(range(5), OneOfSeveral(rank, 3)) for rank in range(3)] == pytest.approx([1.2, 1.2, 0.6])
    assert (list(shard(range(5), SingleWorker())), shard_weight(range(5), SingleWorker())) == ([0, 1, 2, 3, 4], 1.0)


def test_worker_without_teachers_has_no_weight() -> None:
    last = OneOfSeveral(3, 4)
    assert (list(shard(range(2), last)), shard_weight(range(2), last)) == ([], 0.0)


def test_pool_without_teachers_leaves_every_worker_without_any() -> None:
    for rank in range(2):
        assert list(shard(range(0), OneOfSeveral(rank, 2))) == []
        assert shard_weight(range(0), OneOfSeveral(rank, 2)) == 1.0
