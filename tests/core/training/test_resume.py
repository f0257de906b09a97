"""Every stage, interrupted after any step and continued by fresh objects from bytes, ends with the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import HealthConfig, PoolConfig, PriorConfig
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.pair import Pair
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool
from dim_ray.core.training.checkpoint import loads, with_prefix
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Collective, Ports, SingleWorker
from dim_ray.core.training.random import stream
from dim_ray.errors import DivergedError
from tests.helpers.gloo_workers import workers
from tests.helpers.tiny import (
    ARCHITECTURE,
    MATCHING,
    NUM_STEPS,
    POOL,
    PRIOR,
    STEPS_PER_EPOCH,
    InterruptedStageError,
    MemoryCheckpointer,
    RecordingReporter,
    equal_states,
    make_dataset,
    make_pair,
    make_teachers,
    train_teachers,
)

DATASET = make_dataset()
ONLINE = replace(POOL, kind="online", online_steps=2)
ARCHITECTURES = ("convnet3_w8", "resnet10_w4")
Run = Callable[..., Mapping[str, Tensor]]


def run_teacher(
    ports: Ports, *, architecture: str = ARCHITECTURE, learning_rate: float = 0.01, numbers: Sequence[int] = (1,)
) -> Mapping[str, Tensor]:
    teachers = train_teachers(replace(POOL, learning_rate=learning_rate), numbers, architecture, DATASET, ports)
    named = {}
    for number, teacher in enumerate(teachers):
        named[f"{number}.accuracy"] = torch.tensor(teacher.validation_accuracy)
        for step, snapshot in zip(teacher.steps, teacher.snapshots, strict=True):
            named.update(with_prefix(f"{number}.{step}", snapshot))
    return named


def run_prior(
    ports: Ports, *, ema_decay: float = 0.0, learning_rate: float | None = None, discriminator_steps: int = 1
) -> Mapping[str, Tensor]:
    pair = make_pair(DATASET, ema_decay=ema_decay)
    set_rate(pair, learning_rate)
    config = replace(PRIOR, discriminator_steps=discriminator_steps)
    stage = AdversarialTraining(pair, config, DATASET, HealthConfig(), ports.collective)
    run_epochs(stage, DATASET.train, ports)
    return pair.state()


def run_matching(
    ports: Ports,
    *,
    ema_decay: float = 0.0,
    learning_rate: float | None = None,
    online: PoolConfig | None = None,
    prior: PriorConfig = PRIOR,
) -> Mapping[str, Tensor]:
    pair = make_pair(DATASET, ema_decay=ema_decay)
    set_rate(pair, learning_rate)
    pool: TeacherPool = StoredPool(make_teachers(DATASET, [2, 1]), DATASET)
    if online:
        pool = OnlinePool(online, ARCHITECTURES, DATASET, steps_per_epoch=STEPS_PER_EPOCH, rank=ports.collective.rank)

    def measure(epoch: int) -> Mapping[str, float]:
        pair.average.eval()  # as students leave it
        with torch.no_grad():
            return {"mean": pair.average.sample(torch.tensor([0, 1, 2]), stream(0, "measure")).mean().item()}

    stage = Distillation(
        pair,
        pool,
        replace(MATCHING, teachers_per_step=2),
        prior,
        DATASET,
        health=HealthConfig(),
        collective=ports.collective,
        measure=measure,
    )
    run_epochs(stage, DATASET.train, ports)
    return pair.state()


def set_rate(pair: Pair, learning_rate: float | None) -> None:
    for optimizer in (pair.generator_optimizer, pair.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if learning_rate is None else learning_rate


STAGES: dict[str, tuple[Run, dict[str, Any]]] = {
    "teacher": (run_teacher, {}),
    "teacher with BatchNorm": (run_teacher, {"architecture": "resnet10_w4"}),
    "teachers at once": (run_teacher, {"architecture": "resnet10_w4", "numbers": (1, 4)}),
    "prior": (run_prior, {}),
    "prior with average": (run_prior, {"ema_decay": 0.6}),
    "prior with two discriminator steps": (run_prior, {"discriminator_steps": 2}),
    "matching": (run_matching, {}),
    "matching with average": (run_matching, {"ema_decay": 0.6}),
    "matching online": (run_matching, {"online": ONLINE}),
    "matching online as in DiM's code": (
        run_matching,
        {
            "online": replace(ONLINE, online_order="reshuffled", online_mode="train"),
            "prior": replace(PRIOR, class_loss_on="both", first="generator", uniform_labels="discriminator"),
        },
    ),
}
PLAIN = ("teacher", "prior with average", "matching with average", "matching online")


class Uninterrupted:
    """Each stage's result without an interruption, and its state after each step; computed once."""

    def __init__(self) -> None:
        self._results: dict[str, tuple[Mapping[str, Tensor], list[bytes]]] = {}

    def __call__(self, stage: str) -> tuple[Mapping[str, Tensor], list[bytes]]:
        if stage not in self._results:
            run, arguments = STAGES[stage]
            result = run(Ports(), **arguments)
            saving = MemoryCheckpointer()
            assert equal_states(run(Ports(checkpointer=saving), **arguments), result), "saving changed the training"
            assert len(saving.history) == NUM_STEPS
            self._results[stage] = result, saving.history
        return self._results[stage]


@pytest.fixture(scope="module")
def uninterrupted() -> Uninterrupted:
    return Uninterrupted()


def interrupt_and_continue(stage: str, stops: Sequence[int], *, every: int = 1) -> tuple[Mapping[str, Tensor], bytes]:
    """Return the result of a stage and its last saved state, after an interruption at each of `stops` saves."""
    run, arguments = STAGES[stage]
    data = None
    for stop_after in stops:
        checkpointer = MemoryCheckpointer(data, every=every, stop_after=stop_after)
        with pytest.raises(InterruptedStageError):
            run(Ports(checkpointer=checkpointer), **arguments)
        data = checkpointer.data
    last = MemoryCheckpointer(data)
    result = run(Ports(checkpointer=last), **arguments)
    assert last.data is not None
    return result, last.data


@pytest.mark.parametrize("stops", [[2], [1] * NUM_STEPS], ids=["once", "after every step"])
@pytest.mark.parametrize("stage", STAGES)
def test_interrupted(stage: str, stops: list[int], uninterrupted: Uninterrupted) -> None:
    result, data = interrupt_and_continue(stage, stops)
    assert equal_states(result, uninterrupted(stage)[0])
    assert data == uninterrupted(stage)[1][-1], "the saved state of the end, optimisers included, is another"


@pytest.mark.parametrize("every", [2, STEPS_PER_EPOCH, 4])
@pytest.mark.parametrize("stage", PLAIN)
def test_steps_after_the_last_save_are_done_again(stage: str, every: int, uninterrupted: Uninterrupted) -> None:
    run, arguments = STAGES[stage]
    checkpointer = MemoryCheckpointer(every=every)
    with pytest.raises(InterruptedStageError):
        run(Ports(checkpointer=checkpointer, reporter=RecordingReporter(stop_at=2)), **arguments)
    assert checkpointer.data is not None
    assert loads(checkpointer.data, "memory")[1]["steps"] == NUM_STEPS // every * every
    result = run(Ports(checkpointer=MemoryCheckpointer(checkpointer.data, every=10**9)), **arguments)
    assert equal_states(result, uninterrupted(stage)[0])


@pytest.mark.parametrize("stop_at", [1, 2])
@pytest.mark.parametrize("stage", PLAIN)
def test_ended_by_the_reporter(stage: str, stop_at: int, uninterrupted: Uninterrupted) -> None:
    run, arguments = STAGES[stage]
    checkpointer, expected = MemoryCheckpointer(), RecordingReporter()
    run(Ports(reporter=expected), **arguments)
    with pytest.raises(InterruptedStageError):
        run(Ports(checkpointer=checkpointer, reporter=RecordingReporter(stop_at=stop_at)), **arguments)
    reporter = RecordingReporter()
    result = run(Ports(checkpointer=MemoryCheckpointer(checkpointer.data), reporter=reporter), **arguments)
    assert equal_states(result, uninterrupted(stage)[0])
    assert reporter.steps == list(range(stop_at, 3))
    # The epoch that is reported again has the same measurements; the losses of its last step are no longer known.
    for step, _, metrics in reporter.reports:
        assert metrics.items() <= expected.reports[step - 1][2].items()
    assert reporter.reports[1:] == expected.reports[stop_at:]


def test_only_the_step_counter_is_saved_beside_the_tensors(uninterrupted: Uninterrupted) -> None:
    for stage in PLAIN:
        _, meta = loads(uninterrupted(stage)[1][-1], "memory")
        assert json.dumps(meta) == json.dumps({"steps": NUM_STEPS})


# Divergence


class Poison(SingleWorker):
    """Spoils a gradient at one of its calls."""

    def __init__(self, at: int) -> None:
        self._left = at

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self._left == 0:
            first = next(iter(parameters)).grad
            assert first is not None
            first.fill_(float("nan"))
        self._left -= 1


@pytest.mark.parametrize("stage", ["teacher", "prior", "matching"])
def test_absurd_learning_rate_is_an_error_that_names_stage_and_step(stage: str) -> None:
    run, arguments = STAGES[stage]
    checkpointer = MemoryCheckpointer()
    with pytest.raises(DivergedError, match=rf"^{stage} diverged by step [36] of 6: .*learning rate"):
        run(Ports(checkpointer=checkpointer), **{**arguments, "learning_rate": 1e30})
    assert_sound(checkpointer.data)


@pytest.mark.parametrize("call", [0, 1, 4, 5, 11])
@pytest.mark.parametrize("stage", ["prior", "matching"])
def test_last_good_state_is_the_one_before_the_step_that_diverged(
    stage: str, call: int, uninterrupted: Uninterrupted
) -> None:
    # The discriminator's gradients are averaged first, then the generator's: two calls a step.
    checkpointer = MemoryCheckpointer()
    run, arguments = STAGES[stage]
    with pytest.raises(DivergedError, match=stage):
        run(Ports(checkpointer=checkpointer, collective=Poison(call)), **arguments)
    assert checkpointer.history == uninterrupted(stage)[1][: call // 2]
    assert_sound(checkpointer.data)


def assert_sound(data: bytes | None) -> None:
    if data is not None:
        tensors, _ = loads(data, "memory")
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


# Several workers


class Ending(Collective):
    """Ends the worker when it averages gradients once too often: every worker after the same step."""

    def __init__(self, collective: Collective, num_calls: int) -> None:
        self.rank, self.num_workers = collective.rank, collective.num_workers
        self._collective = collective
        self._left = num_calls

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self._left == 0:
            raise InterruptedStageError
        self._left -= 1
        self._collective.average_gradients(parameters)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return self._collective.gather(tensor)

    def any(self, flag: bool) -> bool:
        return self._collective.any(flag)


def run_worker(
    collective: Collective, stage: str, data: bytes | None, num_steps: int | None
) -> tuple[bytes | None, Mapping[str, Tensor]]:
    """Return the state that was saved last, and the result of the stage unless it is ended after `num_steps`."""
    run, arguments = STAGES[stage]
    # As with the storage: all workers read one state, and only worker 0 writes it.
    checkpointer = MemoryCheckpointer(data, every=1 if collective.rank == 0 else 10**9)
    if num_steps is None:
        result = run(Ports(checkpointer=checkpointer, collective=collective), **{**arguments, "ema_decay": 0.6})
        return checkpointer.data, dict(result)
    ending = Ending(collective, 2 * num_steps)
    with pytest.raises(InterruptedStageError):
        run(Ports(checkpointer=checkpointer, collective=ending), **{**arguments, "ema_decay": 0.6})
    return checkpointer.data, {}


@pytest.mark.parametrize("stage", ["prior", "matching", "matching online"])
@pytest.mark.parametrize("stop_after", [STEPS_PER_EPOCH, 5])
def test_two_workers_continue_with_the_same_bits_from_the_state_that_one_of_them_saved(
    stage: str, stop_after: int
) -> None:
    expected = [result for _, result in workers().run(2, run_worker, stage, None, None)]
    saved = workers().run(2, run_worker, stage, None, stop_after)[0][0]
    # Within an epoch the workers' online teachers differ.
    assert loads(saved, "memory")[1] == {"steps": STEPS_PER_EPOCH if "online" in stage else stop_after}
    results = [result for _, result in workers().run(2, run_worker, stage, saved, None)]
    assert any("running_" in name for name in expected[0])
    for result in (expected[1], *results):
        assert equal_states(result, expected[0])


def test_two_workers_with_online_teachers_that_end_in_their_first_epoch_leave_no_state() -> None:
    assert workers().run(2, run_worker, "matching online", None, STEPS_PER_EPOCH - 1)[0][0] is None
