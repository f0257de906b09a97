"""The contract of every Reporter. An implementation is a function that makes one; add it to IMPLEMENTATIONS."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import pytest

from dim_ray.core.training.ports import PartReporter, Reporter, SilentReporter
from dim_ray.distributed.bridge import BoardReporter, RungReporter
from dim_ray.pipeline.local import ProgressReporter
from dim_ray.progress import SilentProgress
from tests.helpers.local_board import LocalBoard
from tests.helpers.tiny import RecordingReporter

IMPLEMENTATIONS: dict[str, Callable[[], Reporter]] = {
    "SilentReporter": SilentReporter,
    "RecordingReporter": RecordingReporter,
    "PartReporter": lambda: PartReporter(SilentReporter(), 1, 2),
    "ProgressReporter": lambda: ProgressReporter(SilentProgress(), done=2),
    "BoardReporter": lambda: BoardReporter(LocalBoard(), "teacher 0"),
    "RungReporter": lambda: RungReporter(SilentReporter(), lambda measured: None, with_last=True),
}


@pytest.fixture(params=IMPLEMENTATIONS, ids=str)
def reporter(request: pytest.FixtureRequest) -> Reporter:
    return IMPLEMENTATIONS[request.param]()


def test_every_epoch_may_be_reported(reporter: Reporter) -> None:
    for epoch in range(1, 4):
        reporter.report(epoch, 3, {"loss": 1 / epoch, "validation_accuracy": 0.5})


def test_metrics_may_be_empty_and_change_from_epoch_to_epoch(reporter: Reporter) -> None:
    reporter.report(1, 3, {})
    reporter.report(2, 3, {"discriminator_loss": -1.5})
    reporter.report(3, 3, {"validation_accuracy": 1.0, "matching_loss": math.pi})


def test_metrics_are_read_and_not_changed(reporter: Reporter) -> None:
    metrics = {"loss": 0.25}
    reporter.report(1, 1, MappingProxyType(metrics))
    assert metrics == {"loss": 0.25}


def test_resumed_stage_may_report_an_epoch_again_and_begin_in_the_middle(reporter: Reporter) -> None:
    reporter.report(7, 9, {"loss": 1.0})
    reporter.report(7, 9, {})
    reporter.report(8, 9, {"loss": 1.0})


def test_progress_comes_between_epochs_in_fractions_and_with_notes(reporter: Reporter) -> None:
    reporter.advance(0.25, 3)
    reporter.report(1, 3, {"loss": 1.0})
    reporter.advance(1.0, 3, "validation 50%")
    reporter.advance(1.5, 3)
