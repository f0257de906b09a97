"""The contract of every TeacherPool.

An implementation is a function from the number of a worker to a pool; add it to IMPLEMENTATIONS.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import DrawnTeacher, StoredPool, TeacherPool
from dim_ray.core.training.checkpoint import dumps, loads
from dim_ray.core.training.random import stream
from tests.helpers.tiny import POOL, STEPS_PER_EPOCH, equal_states, make_dataset, make_teachers

DATASET = make_dataset()
BATCH_NORM = "resnet10_w4"
NUM_STEPS = 2 * STEPS_PER_EPOCH + 1
COUNT = 2

Make = Callable[[int], TeacherPool]


def stored(rank: int, limit_bytes: int | None = None) -> StoredPool:
    teachers = make_teachers(DATASET, [2, 1, 2], BATCH_NORM)
    for teacher in teachers:
        for snapshot in teacher.snapshots:  # different statistics, so that it matters which are used
            for name, tensor in snapshot.items():
                if "running_mean" in name:
                    tensor.normal_(generator=stream(1, name))
    return StoredPool(teachers[rank:], DATASET, limit_bytes=limit_bytes)


def from_host(rank: int) -> StoredPool:
    return stored(rank, limit_bytes=0)


def online(rank: int, **changes: Any) -> OnlinePool:
    config = replace(POOL, kind="online", online_steps=2, **changes)
    return OnlinePool(config, (BATCH_NORM, "convnet3_w4"), DATASET, steps_per_epoch=STEPS_PER_EPOCH, rank=rank)


IMPLEMENTATIONS: dict[str, Make] = {
    "StoredPool": stored,
    "StoredPool on the host": from_host,
    "OnlinePool": online,
    "OnlinePool in train mode": lambda rank: online(rank, online_mode="train", online_order="reshuffled"),
}
IN_EVAL_MODE = [make for name, make in IMPLEMENTATIONS.items() if "train mode" not in name]


@pytest.fixture(params=IMPLEMENTATIONS, ids=str)
def make(request: pytest.FixtureRequest) -> Make:
    return IMPLEMENTATIONS[request.param]


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=stream(seed))


def draw(pool: TeacherPool, step: int, count: int = COUNT) -> Sequence[DrawnTeacher]:
    return pool.draw(step, count, stream(5, step=step))


def answers(pool: TeacherPool, steps: range) -> list[list[Tensor]]:
    return [[teacher(images()).detach() for teacher in draw(pool, step)] for step in steps]


@pytest.mark.parametrize("count", [1, 3])
def test_a_draw_has_as_many_teachers_as_asked_for(make: Make, count: int) -> None:
    pool = make(0)
    for step in range(NUM_STEPS):
        drawn = draw(pool, step, count)
        assert len(drawn) == count
        assert all(teacher(images()).shape == (3, DATASET.num_classes) for teacher in drawn)


def test_teachers_differ(make: Make) -> None:
    given = [logits for step in answers(make(0), range(NUM_STEPS)) for logits in step]
    assert any(not torch.equal(given[0], logits) for logits in given[1:])


@pytest.mark.parametrize("make", IN_EVAL_MODE)
def test_an_image_has_the_same_logits_whatever_is_beside_it(make: Make) -> None:
    pool = make(0)
    for step in range(NUM_STEPS):
        for teacher in draw(pool, step):
            one_by_one = torch.cat([teacher(image[None]) for image in images()])
            torch.testing.assert_close(teacher(images()), one_by_one)


def test_gradients_flow_to_images_and_to_nothing_else(make: Make) -> None:
    pool = make(0)
    for step in range(NUM_STEPS):
        for teacher in draw(pool, step):
            given = images().requires_grad_()
            names = [name for name, _ in teacher.network.named_parameters()]
            before = [copy.copy(parameter.grad) for parameter in teacher.network.parameters()]
            teacher(given).square().sum().backward()
            assert given.grad is not None
            assert given.grad.abs().sum() > 0
            assert not any(tensor.requires_grad or tensor.grad is not None for tensor in teacher.tensors.values())
            assert {*names} <= {*teacher.tensors}
            for parameter, gradient in zip(teacher.network.parameters(), before, strict=True):
                assert parameter.grad is None or torch.equal(parameter.grad, gradient)


def test_being_asked_changes_no_teacher(make: Make) -> None:
    asked, silent = make(0), make(0)
    for step in range(NUM_STEPS):
        for teacher, other in zip(draw(asked, step), draw(silent, step), strict=True):
            before = {name: tensor.clone() for name, tensor in teacher.tensors.items()}
            teacher(images(step).requires_grad_()).sum().backward()
            assert equal_states(teacher.tensors, before)
            assert equal_states(teacher.tensors, other.tensors)


def test_draws_can_be_repeated_and_do_not_touch_the_global_random_state(make: Make) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(answers(make(0), range(NUM_STEPS)))
        assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(*results, atol=0, rtol=0)


def test_teachers_do_not_depend_on_what_was_prefetched(make: Make) -> None:
    expected = answers(make(0), range(NUM_STEPS))
    for shift in (1, 2):  # what is drawn next, and something else
        told = make(0)
        for step in range(NUM_STEPS):
            drawn = draw(told, step)
            told.prefetch(COUNT, lambda following=step + shift: stream(5, step=following))  # type: ignore[misc]
            logits = [teacher(images()).detach() for teacher in drawn]
            torch.testing.assert_close(logits, expected[step], atol=0, rtol=0)


def test_workers_draw_different_teachers(make: Make) -> None:
    ours, theirs = (answers(make(rank), range(NUM_STEPS)) for rank in (0, 1))
    assert not all(
        torch.equal(a, b) for own, other in zip(ours, theirs, strict=True) for a, b in zip(own, other, strict=True)
    )


def restored(make: Make, state: Mapping[str, Tensor]) -> TeacherPool:
    tensors, _ = loads(dumps(state), "memory")
    pool = make(0)
    pool.load_state(tensors)
    return pool


@pytest.mark.parametrize("stop_after", [1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2])
def test_a_restored_pool_continues_with_the_same_bits(make: Make, stop_after: int) -> None:
    expected = answers(make(0), range(NUM_STEPS))
    stopped = make(0)
    answers(stopped, range(stop_after))
    state = stopped.state()
    assert all(tensor.isfinite().all() for tensor in state.values())
    found = answers(restored(make, state), range(stop_after, NUM_STEPS))
    torch.testing.assert_close(found, expected[stop_after:], atol=0, rtol=0)


def test_asking_for_the_state_changes_nothing_and_a_restored_state_is_the_same(make: Make) -> None:
    expected = answers(make(0), range(NUM_STEPS))
    pool = make(0)
    for step in range(NUM_STEPS):
        torch.testing.assert_close(answers(pool, range(step, step + 1)), expected[step : step + 1], atol=0, rtol=0)
        assert equal_states(pool.state(), pool.state())


def test_a_restored_pool_does_not_change_the_state_it_was_restored_from(make: Make) -> None:
    stopped = make(0)
    answers(stopped, range(STEPS_PER_EPOCH + 1))
    state = {name: tensor.clone() for name, tensor in stopped.state().items()}
    before = dumps(state)
    pool = make(0)
    pool.load_state(state)
    answers(pool, range(STEPS_PER_EPOCH + 1, NUM_STEPS))
    assert dumps(state) == before


def test_there_is_no_state_at_the_end_of_an_epoch(make: Make) -> None:
    pool = make(0)
    assert pool.state() == {}
    for step in range(NUM_STEPS):
        draw(pool, step)
        if (step + 1) % STEPS_PER_EPOCH == 0:
            assert pool.state() == {}
