from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dim_ray.core.training.checkpoint import loads
from dim_ray.core.training.loop import Losses, run_epochs
from dim_ray.core.training.ports import Checkpointer, SingleWorker, State
from dim_ray.errors import DivergedError, StorageError
from tests.helpers.tiny import InterruptedStageError, MemoryCheckpointer, OneOfSeveral, RecordingReporter

NUM_IMAGES = 23
BATCH_SIZE = 6
STEPS_PER_EPOCH = 3
EPOCHS = 4
NUM_STEPS = EPOCHS * STEPS_PER_EPOCH


class Stage:
    """Counts, and keeps what it was shown; a loss may be spoilt at one step, or the weights behind it."""

    def __init__(self, *, bad_loss_at: int | None = None, bad_weight_at: int | None = None) -> None:
        self.count = torch.zeros(())
        self.seen: list[tuple[int, list[int]]] = []
        self.events: list[str] = []
        self._bad_loss_at = bad_loss_at
        self._bad_weight_at = bad_weight_at

    def step(self, number: int, indices: Tensor) -> Losses:
        assert indices.dtype == torch.int64
        self.seen.append((number, indices.tolist()))
        self.events.append(f"step {number}")
        self.count += 1
        if number == self._bad_weight_at:
            self.count.fill_(math.nan)
        return {
            "loss": torch.tensor(math.inf if number == self._bad_loss_at else 1.0 + number),
            "other": self.count * 0 + 2,
        }

    def capture(self) -> Mapping[str, Tensor]:
        return {"count": self.count, "whole": torch.tensor(3)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.count.copy_(tensors["count"])

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        self.events.append(f"after {epoch}")
        return {"measured": epoch / 2}

    def run(
        self, checkpointer: Checkpointer | None = None, reporter: RecordingReporter | None = None, **change: Any
    ) -> None:
        arguments: dict[str, Any] = {
            "stage": "counting",
            "epochs": EPOCHS,
            "num_images": NUM_IMAGES,
            "batch_size": BATCH_SIZE,
            "seeds": [0],
            "device": torch.device("cpu"),
            "collective": SingleWorker(),
            **change,
        }
        run_epochs(
            step=self.step,
            capture=self.capture,
            restore=self.restore,
            after_epoch=self.after_epoch,
            reporter=reporter or RecordingReporter(),
            checkpointer=checkpointer or MemoryCheckpointer(every=10**9),
            **arguments,
        )


def test_epoch_is_full_batches_of_images_that_come_once() -> None:
    stage = Stage()
    stage.run()
    assert [number for number, _ in stage.seen] == list(range(EPOCHS * STEPS_PER_EPOCH))
    orders = []
    for epoch in range(EPOCHS):
        batches = [indices for _, indices in stage.seen[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH]]
        assert [len(batch) for batch in batches] == [BATCH_SIZE] * STEPS_PER_EPOCH
        order = [index for batch in batches for index in batch]
        assert len(set(order)) == len(order)
        assert set(order) <= set(range(NUM_IMAGES))
        orders.append(tuple(order))
    assert len(set(orders)) == EPOCHS
    assert len({frozenset(order) for order in orders}) > 1, "the same images are left out in every epoch"


def test_order_depends_on_the_seed_and_the_stage_alone() -> None:
    torch.manual_seed(1)
    first, same, other_seed, other_stage = Stage(), Stage(), Stage(), Stage()
    first.run()
    torch.manual_seed(2)
    same.run(epochs=EPOCHS + 1)
    other_seed.run(seeds=[1])
    other_stage.run(stage="summing")
    assert same.seen[: len(first.seen)] == first.seen
    assert other_seed.seen != first.seen
    assert other_stage.seen != first.seen


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_divide_the_same_global_batches_among_themselves(num_workers: int) -> None:
    alone = Stage()
    alone.run()
    shares = []
    for rank in range(num_workers):
        stage = Stage()
        stage.run(collective=OneOfSeveral(rank, num_workers))
        shares.append(stage.seen)
    for number, batch in alone.seen:
        parts = [share[number][1] for share in shares]
        assert {len(part) for part in parts} == {BATCH_SIZE // num_workers}
        assert [index for part in parts for index in part] == batch


def test_every_epoch_is_reported_with_losses_and_measurements() -> None:
    stage, reporter = Stage(), RecordingReporter()
    stage.run(reporter=reporter)
    assert reporter.reports == [
        (epoch, EPOCHS, {"loss": float(STEPS_PER_EPOCH * epoch), "other": 2.0, "measured": epoch / 2})
        for epoch in range(1, EPOCHS + 1)
    ]


def test_state_is_saved_after_a_step_when_it_is_due() -> None:
    checkpointer = MemoryCheckpointer(every=5)
    Stage().run(checkpointer)
    assert len(checkpointer.history) == EPOCHS * STEPS_PER_EPOCH // 5
    assert checkpointer.data is not None
    tensors, meta = loads(checkpointer.data, "memory")
    assert meta == {"steps": 10}
    assert int(tensors["count"]) == 10


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("is_shared", [True, False])
def test_several_workers_are_saved_only_where_they_are_the_same(rank: int, is_shared: bool) -> None:
    stage, checkpointer = Stage(), MemoryCheckpointer()
    stage.run(checkpointer, collective=OneOfSeveral(rank, 2), is_shared=lambda: is_shared)
    saved = [loads(data, "memory")[1]["steps"] for data in checkpointer.history]
    assert saved == list(range(1, NUM_STEPS + 1)) if is_shared else [STEPS_PER_EPOCH * n for n in range(1, EPOCHS + 1)]


@pytest.mark.parametrize("stop_after", range(1, EPOCHS * STEPS_PER_EPOCH + 1))
def test_resumed_stage_does_the_steps_that_are_left_and_no_others(stop_after: int) -> None:
    whole, before, after = Stage(), Stage(), Stage()
    whole.run()
    checkpointer = MemoryCheckpointer(stop_after=stop_after)
    with pytest.raises(InterruptedStageError):
        before.run(checkpointer)
    after.run(MemoryCheckpointer(checkpointer.data))
    assert [*before.seen, *after.seen] == whole.seen
    assert torch.equal(after.count, whole.count)


def test_epoch_that_was_saved_but_perhaps_not_reported_is_reported_again() -> None:
    checkpointer = MemoryCheckpointer(every=STEPS_PER_EPOCH, stop_after=2)
    with pytest.raises(InterruptedStageError):
        Stage().run(checkpointer)
    stage, reporter = Stage(), RecordingReporter()
    stage.run(MemoryCheckpointer(checkpointer.data), reporter)
    assert reporter.reports[0] == (2, EPOCHS, {"measured": 1.0})
    assert reporter.steps == [2, 3, 4]


def test_stage_that_was_saved_at_its_very_end_is_measured_once_more_and_not_trained() -> None:
    checkpointer = MemoryCheckpointer()
    Stage().run(checkpointer)
    stage, reporter = Stage(), RecordingReporter()
    stage.run(MemoryCheckpointer(checkpointer.data), reporter)
    assert stage.seen == []
    assert reporter.steps == [EPOCHS]


def test_epoch_is_not_reported_again_when_the_state_is_from_its_middle() -> None:
    checkpointer = MemoryCheckpointer(stop_after=4)
    with pytest.raises(InterruptedStageError):
        Stage().run(checkpointer)
    reporter = RecordingReporter()
    Stage().run(MemoryCheckpointer(checkpointer.data), reporter)
    assert reporter.steps == [2, 3, 4]


def test_workers_are_brought_together_before_an_epoch_is_saved_and_measured() -> None:
    stage = Stage()

    class Watching(MemoryCheckpointer):
        def save(self, state: State) -> None:
            stage.events.append("save")
            super().save(state)

    stage.run(Watching(every=STEPS_PER_EPOCH), epochs=1)
    assert stage.events == ["step 0", "step 1", "step 2", "save", "after 1"]


def test_bad_loss_ends_the_stage_by_name_and_step() -> None:
    stage, reporter = Stage(bad_loss_at=5), RecordingReporter()
    with pytest.raises(
        DivergedError, match=r"counting diverged by step 6 of 12: loss inf, other 2.*[Ll]ower"
    ) as raised:
        stage.run(reporter=reporter)
    assert raised.value.exit_code != 0
    assert reporter.steps == [1]


@pytest.mark.parametrize("bad_at", range(6))
@pytest.mark.parametrize("kind", ["bad_loss_at", "bad_weight_at"])
def test_no_bad_state_is_ever_saved(kind: str, bad_at: int) -> None:
    checkpointer = MemoryCheckpointer()
    with pytest.raises(DivergedError, match="counting diverged"):
        Stage(**{kind: bad_at, "bad_weight_at": bad_at}).run(checkpointer)
    assert len(checkpointer.history) == bad_at
    if checkpointer.data is not None:
        tensors, meta = loads(checkpointer.data, "memory")
        assert (meta, int(tensors["count"])) == ({"steps": bad_at}, bad_at)


def test_weights_that_the_last_update_of_all_spoilt_are_not_returned() -> None:
    stage = Stage(bad_weight_at=EPOCHS * STEPS_PER_EPOCH - 1)
    with pytest.raises(DivergedError, match="weights"):
        stage.run()


def test_every_worker_gives_up_when_one_of_them_diverged() -> None:
    # Three questions a worker: whether it has a state, whether it has none, and at an epoch's end whether all is well.
    collective = OneOfSeveral(0, 2, flagged=lambda call: call > 2)
    with pytest.raises(DivergedError, match="counting diverged by step 3"):
        Stage().run(collective=collective)


@pytest.mark.parametrize("has_state", [False, True])
def test_workers_that_see_different_storages_are_told_so(has_state: bool) -> None:
    checkpointer = MemoryCheckpointer()
    if has_state:
        checkpointer.save(State(tensors={"count": torch.zeros(())}, meta={"steps": 0}))
    stage = Stage()
    with pytest.raises(StorageError, match=r"checkpoint of counting.*same storage"):
        stage.run(checkpointer, collective=OneOfSeveral(0, 2, flagged=lambda call: call <= 2))
    assert stage.seen == []
