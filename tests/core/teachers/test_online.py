from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.teachers import online
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import DrawnTeacher
from dim_ray.core.training.random import stream
from tests.helpers.tiny import ARCHITECTURE, POOL, STEPS_PER_EPOCH, accuracy, equal_states, make_dataset

DATASET = make_dataset()
CONFIG = replace(POOL, kind="online", online_steps=2)
RESNET = "resnet10_w4"


def make_pool(architectures: tuple[str, ...] = (ARCHITECTURE,), rank: int = 0, **changes: Any) -> OnlinePool:
    config = replace(CONFIG, **changes)
    return OnlinePool(config, architectures, DATASET, steps_per_epoch=STEPS_PER_EPOCH, rank=rank)


def draw(pool: OnlinePool, step: int) -> DrawnTeacher:
    [teacher] = pool.draw(step, 1, stream(0))
    return teacher


def weights(teacher: DrawnTeacher) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in teacher.tensors.items()}


def test_every_epoch_begins_with_a_new_network() -> None:
    pool, fresh = make_pool(online_steps=0), []
    for epoch in range(3):
        steps = [weights(draw(pool, epoch * STEPS_PER_EPOCH + index)) for index in range(STEPS_PER_EPOCH)]
        assert all(equal_states(step, steps[0]) for step in steps), "without steps of its own it's never trained"
        fresh.append(steps[0])
    assert not any(equal_states(fresh[a], fresh[b]) for a in range(3) for b in range(a))


def test_network_learns_within_its_epoch() -> None:
    dataset = make_dataset(per_class=20)
    config = replace(CONFIG, online_steps=8, batch_size=20, learning_rate=0.2, augmentation="none")
    pool = OnlinePool(config, (ARCHITECTURE,), dataset, steps_per_epoch=8, rank=0)
    found = [accuracy(draw(pool, step), dataset.test, dataset.normalisation) for step in range(8)]
    assert found[0] < found[-1]
    assert found[-1] > 0.9
    assert accuracy(draw(pool, 8), dataset.test, dataset.normalisation) < found[-1]


def test_architectures_are_drawn_uniformly() -> None:
    pool = make_pool((ARCHITECTURE, "convnet3_w4"), online_steps=0)
    sizes = [len(draw(pool, epoch * STEPS_PER_EPOCH).tensors["0.weight"]) for epoch in range(200)]
    counts = Counter(sizes)
    assert counts.keys() == {4, 8}
    assert abs(counts[4] - 100) < 5 * 50**0.5


@pytest.mark.parametrize("architecture", [RESNET, "resnet10_dim", "resnet10_ap_dim7"])
def test_statistics_of_batch_norm_are_those_of_its_own_training(architecture: str) -> None:
    pool = make_pool((architecture,), online_steps=3)
    for step in range(STEPS_PER_EPOCH):
        teacher = draw(pool, step)
        assert teacher.tensors["bn1.num_batches_tracked"] == 3 * (step + 1)
        assert teacher.tensors["bn1.running_mean"].abs().sum() > 0
        assert not teacher.network.training
        teacher(torch.randn(4, 1, 8, 8, generator=stream(step)))
    assert weights(teacher)["bn1.num_batches_tracked"] == 3 * STEPS_PER_EPOCH


@pytest.mark.parametrize("online_mode", ["eval", "train"])
def test_network_in_train_mode_normalises_each_batch_by_itself(online_mode: Any) -> None:
    teacher = draw(make_pool((RESNET,), online_mode=online_mode), 0)
    images = torch.randn(6, 1, 8, 8, generator=stream(1))
    plain = build_network(RESNET, DATASET, stream(0))
    plain.load_state_dict(weights(teacher))
    expected = plain.train(online_mode == "train")(images)
    torch.testing.assert_close(teacher(images), expected)
    torch.testing.assert_close(teacher(images), expected)
    alone = torch.cat([teacher(images[:3]), teacher(images[3:])])
    assert torch.allclose(alone, expected, atol=1e-4) is (online_mode == "eval")


@pytest.mark.parametrize(("batch_size", "online_steps"), [(8, 2), (8, 3), (8, 5), (5, 6), (24, 2)])
def test_reshuffled_batches_are_the_first_of_a_new_order_before_every_generator_step(
    batch_size: int, online_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[int]] = []
    monkeypatch.setattr(online, "train_step", lambda *args: taken.append(args[4].tolist()))
    pool = make_pool(batch_size=batch_size, online_steps=online_steps, online_order="reshuffled")
    for step in range(STEPS_PER_EPOCH):
        draw(pool, step)
    assert len(taken) == STEPS_PER_EPOCH * online_steps
    per_pass = len(DATASET.train) // batch_size
    starts = set()
    for step in range(STEPS_PER_EPOCH):
        own = taken[step * online_steps : (step + 1) * online_steps]
        for first in range(0, online_steps, per_pass):  # a small data set takes several passes
            seen = [image for batch in own[first : first + per_pass] for image in batch]
            assert len(seen) == len(set(seen)), "an image repeats within a pass"
            starts.add(tuple(seen[:batch_size]))
    assert len(starts) == STEPS_PER_EPOCH * math.ceil(online_steps / per_pass), "an order repeats"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 9},
        {"online_steps": 3},
        {"batch_size": 4},
        {"learning_rate": 0.02},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"augmentation": "none"},
        {"precision": "bfloat16"},
        {"online_order": "reshuffled"},
        {"rank": 1},
    ],
    ids=str,
)
def test_network_depends_on(changes: dict[str, Any]) -> None:
    [ours, theirs] = [make_pool(), make_pool(**changes)]
    for step in range(2):
        drawn = draw(ours, step), draw(theirs, step)
    assert not equal_states(*(teacher.tensors for teacher in drawn))


@pytest.mark.parametrize("changes", [{"size": 5}, {"epochs": 9}, {"num_snapshots": 1}], ids=str)
def test_settings_of_stored_teachers_change_nothing(changes: dict[str, Any]) -> None:
    ours, theirs = make_pool(), make_pool(**changes)
    assert equal_states(draw(ours, 0).tensors, draw(theirs, 0).tensors)
    assert CONFIG.recipe() == replace(CONFIG, **changes).recipe()


def test_networks_of_a_step_are_trained_side_by_side() -> None:
    pool = make_pool()
    first, second = pool.draw(0, 2, stream(0))
    assert not equal_states(first.tensors, second.tensors)
    assert equal_states(first.tensors, draw(make_pool(), 0).tensors), "the first is the same without the second"
