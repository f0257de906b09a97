from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dim_ray.core.data.splits import Split
from dim_ray.core.training import loop, ports
from dim_ray.core.training.checkpoint import loads
from dim_ray.core.training.loop import Losses, Stage, run_epochs
from dim_ray.core.training.ports import Checkpointer, Collective, Pace, PartReporter, Ports, SingleWorker, State
from dim_ray.errors import DivergedError, StorageError
from tests.helpers.tiny import InterruptedStageError, MemoryCheckpointer, OneOfSeveral, RecordingReporter

NUM_IMAGES = 23
BATCH_SIZE = 6
STEPS_PER_EPOCH = 3
EPOCHS = 4
NUM_STEPS = EPOCHS * STEPS_PER_EPOCH


SPLIT = Split(images=torch.zeros(NUM_IMAGES, 1, 1, 1, dtype=torch.uint8), labels=torch.arange(NUM_IMAGES))


class Counting(Stage):
    """Counts its steps, and records them; a loss may be spoilt at one step, or the weights after it."""

    batch_size = BATCH_SIZE

    def __init__(
        self,
        *,
        name: str = "counting",
        epochs: int = EPOCHS,
        seed: int = 0,
        is_same: bool = True,
        bad_loss_at: int | None = None,
        bad_weight_at: int | None = None,
    ) -> None:
        self.name, self.epochs, self.seeds = name, epochs, [seed]
        self._is_same = is_same
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

    def state(self) -> Mapping[str, Tensor]:
        return {"count": self.count, "whole": torch.tensor(3)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.count.copy_(tensors["count"])

    def is_shared(self) -> bool:
        return self._is_same

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        self.events.append(f"after {epoch}")
        return {"measured": epoch / 2}

    def run(
        self,
        checkpointer: Checkpointer | None = None,
        reporter: RecordingReporter | None = None,
        collective: Collective | None = None,
    ) -> None:
        ports = Ports(
            reporter=reporter or RecordingReporter(),
            checkpointer=checkpointer or MemoryCheckpointer(every=10**9),
            collective=collective or SingleWorker(),
        )
        run_epochs(self, SPLIT, ports)


def test_epoch_is_full_batches_of_images_that_come_once() -> None:
    stage = Counting()
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


def test_order_only_depends_on_the_seed_and_the_stage() -> None:
    torch.manual_seed(1)
    first, same = Counting(), Counting(epochs=EPOCHS + 1)
    other_seed, other_stage = Counting(seed=1), Counting(name="summing")
    first.run()
    torch.manual_seed(2)
    for stage in (same, other_seed, other_stage):
        stage.run()
    assert same.seen[: len(first.seen)] == first.seen
    assert other_seed.seen != first.seen
    assert other_stage.seen != first.seen


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_divide_the_same_global_batches_among_themselves(num_workers: int) -> None:
    whole = Counting()
    whole.run()
    shares = []
    for rank in range(num_workers):
        stage = Counting()
        stage.run(collective=OneOfSeveral(rank, num_workers))
        shares.append(stage.seen)
    for number, batch in whole.seen:
        parts = [share[number][1] for share in shares]
        assert {len(part) for part in parts} == {BATCH_SIZE // num_workers}
        assert [index for part in parts for index in part] == batch


def test_every_epoch_is_reported_with_losses_and_measurements() -> None:
    stage, reporter = Counting(), RecordingReporter()
    stage.run(reporter=reporter)
    assert reporter.reports == [
        (epoch, EPOCHS, {"loss": float(STEPS_PER_EPOCH * epoch), "other": 2.0, "measured": epoch / 2})
        for epoch in range(1, EPOCHS + 1)
    ]


def test_state_is_saved_after_a_step_when_it_is_due() -> None:
    checkpointer = MemoryCheckpointer(every=5)
    Counting().run(checkpointer)
    assert len(checkpointer.history) == EPOCHS * STEPS_PER_EPOCH // 5
    assert checkpointer.data is not None
    tensors, meta = loads(checkpointer.data, "memory")
    assert meta == {"steps": 10}
    assert int(tensors["count"]) == 10


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("is_same", [True, False])
def test_several_workers_are_saved_only_where_they_are_the_same(rank: int, is_same: bool) -> None:
    checkpointer = MemoryCheckpointer()
    Counting(is_same=is_same).run(checkpointer, collective=OneOfSeveral(rank, 2))
    saved = [loads(data, "memory")[1]["steps"] for data in checkpointer.history]
    assert saved == list(range(1 if is_same else STEPS_PER_EPOCH, NUM_STEPS + 1, 1 if is_same else STEPS_PER_EPOCH))


@pytest.mark.parametrize("stop_after", range(1, EPOCHS * STEPS_PER_EPOCH + 1))
def test_resumed_stage_only_takes_the_steps_that_are_left(stop_after: int) -> None:
    whole, before, after = Counting(), Counting(), Counting()
    whole.run()
    checkpointer = MemoryCheckpointer(stop_after=stop_after)
    with pytest.raises(InterruptedStageError):
        before.run(checkpointer)
    after.run(MemoryCheckpointer(checkpointer.data))
    assert [*before.seen, *after.seen] == whole.seen
    assert torch.equal(after.count, whole.count)


def test_saved_epoch_that_may_not_have_been_reported_is_reported_again() -> None:
    checkpointer = MemoryCheckpointer(every=STEPS_PER_EPOCH, stop_after=2)
    with pytest.raises(InterruptedStageError):
        Counting().run(checkpointer)
    stage, reporter = Counting(), RecordingReporter()
    stage.run(MemoryCheckpointer(checkpointer.data), reporter)
    assert reporter.reports[0] == (2, EPOCHS, {"measured": 1.0})
    assert reporter.steps == [2, 3, 4]


def test_stage_that_was_saved_at_its_end_is_measured_again_but_not_trained() -> None:
    checkpointer = MemoryCheckpointer()
    Counting().run(checkpointer)
    stage, reporter = Counting(), RecordingReporter()
    stage.run(MemoryCheckpointer(checkpointer.data), reporter)
    assert stage.seen == []
    assert reporter.steps == [EPOCHS]


def test_epoch_is_not_reported_again_when_the_state_is_from_its_middle() -> None:
    checkpointer = MemoryCheckpointer(stop_after=4)
    with pytest.raises(InterruptedStageError):
        Counting().run(checkpointer)
    reporter = RecordingReporter()
    Counting().run(MemoryCheckpointer(checkpointer.data), reporter)
    assert reporter.steps == [2, 3, 4]


def test_an_epoch_is_saved_before_it_is_measured() -> None:
    stage = Counting(epochs=1)

    class Watching(MemoryCheckpointer):
        def save(self, state: State) -> None:
            stage.events.append("save")
            super().save(state)

    stage.run(Watching(every=STEPS_PER_EPOCH))
    assert stage.events == ["step 0", "step 1", "step 2", "save", "after 1"]


def test_bad_loss_ends_the_stage_by_name_and_step() -> None:
    stage, reporter = Counting(bad_loss_at=5), RecordingReporter()
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
        Counting(**{kind: bad_at, "bad_weight_at": bad_at}).run(checkpointer)
    assert len(checkpointer.history) == bad_at
    if checkpointer.data is not None:
        tensors, meta = loads(checkpointer.data, "memory")
        assert (meta, int(tensors["count"])) == ({"steps": bad_at}, bad_at)


def test_weights_that_the_last_update_spoilt_are_an_error() -> None:
    stage = Counting(bad_weight_at=EPOCHS * STEPS_PER_EPOCH - 1)
    with pytest.raises(DivergedError, match="weights"):
        stage.run()


def test_every_worker_gives_up_when_one_of_them_diverged() -> None:
    # Three questions per worker: whether it has a state, whether it has none, and after an epoch whether all is well.
    collective = OneOfSeveral(0, 2, flagged=lambda call: call > 2)
    with pytest.raises(DivergedError, match="counting diverged by step 3"):
        Counting().run(collective=collective)


class _Ahead(OneOfSeveral):
    """Worker 0 of two, whose companion found the state of three steps later."""

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor, tensor + 3]


def test_workers_that_find_different_states_are_an_error() -> None:
    checkpointer = MemoryCheckpointer()
    checkpointer.save(State(tensors={"count": torch.zeros(())}, meta={"steps": 3}))
    stage = Counting()
    with pytest.raises(StorageError, match="different checkpoints of counting"):
        stage.run(checkpointer, collective=_Ahead(0, 2))
    assert stage.seen == []


@pytest.mark.parametrize("has_state", [False, True])
def test_workers_that_see_different_storages_are_an_error(has_state: bool) -> None:
    checkpointer = MemoryCheckpointer()
    if has_state:
        checkpointer.save(State(tensors={"count": torch.zeros(())}, meta={"steps": 0}))
    stage = Counting()
    with pytest.raises(StorageError, match=r"checkpoint of counting.*same storage"):
        stage.run(checkpointer, collective=OneOfSeveral(0, 2, flagged=lambda call: call <= 2))
    assert stage.seen == []


# ------------------------------------------------------------------------------------------------ progress by time


def test_progress_within_epochs_is_reported_by_time_without_reading_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Losses] = []
    read = loop._values

    def watch(losses: Losses) -> dict[str, float]:
        reads.append(losses)
        return read(losses)

    monkeypatch.setattr(loop, "_values", watch)
    Counting().run()
    num_reads = len(reads)
    reads.clear()
    monkeypatch.setattr(ports, "_SECONDS_BETWEEN_REPORTS", 0.0)
    stage, reporter = Counting(), RecordingReporter()
    stage.run(reporter=reporter)
    assert reporter.advances == [((step + 1) / STEPS_PER_EPOCH, EPOCHS, "") for step in range(NUM_STEPS)]
    assert reporter.steps == [1, 2, 3, 4]
    assert len(reads) == num_reads


def test_time_between_reports_is_kept() -> None:
    times = iter((0.0, 0.0, 1.9, 2.0, 2.1, 3.9, 4.1, 100.0, 101.0))
    pace = Pace(lambda: next(times))
    assert [pace.is_due() for _ in range(8)] == [False, False, True, False, False, True, True, False]


def test_part_of_a_job_reports_its_share_of_the_whole() -> None:
    whole = RecordingReporter()
    part = PartReporter(whole, 2, 4)
    part.advance(0.5, 3, "a note")
    part.report(3, 3, {"loss": 1.0})
    assert whole.advances == [(6.5, 12, "a note")]
    assert whole.reports == [(9, 12, {"loss": 1.0})]
