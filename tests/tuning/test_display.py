from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dim_ray.pipeline.workspace import Workspace
from tests.helpers.recording import PARAMETERS, RecordingProgress
from tests.helpers.small import make_work
from tuning.display import TrialDisplay
from tuning.record import StudyRecord
from tuning.search.optuna_search import METRIC
from tuning.trial import GIVEN_UP

CUT = {"9"}
"""Trials that the time budget cut."""


@dataclass
class Trial:
    """What the display sees of Ray Tune's trial."""

    trial_id: str
    last_result: dict[str, Any] | None = None
    error_file: str | None = None


def result(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, METRIC: accuracy, "time_total_s": 1.0, **more}


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


@pytest.fixture
def progress() -> RecordingProgress:
    return RecordingProgress()


@pytest.fixture
def display(work: Workspace, progress: RecordingProgress) -> TrialDisplay:
    return make_display(work, progress)


def make_display(work: Workspace, progress: RecordingProgress) -> TrialDisplay:
    search: Any = SimpleNamespace(
        lookup=lambda trial_id: (int(trial_id), PARAMETERS), drawn_by=lambda trial_id: "sampler"
    )
    budget: Any = SimpleNamespace(has_cut=lambda trial_id: trial_id in CUT)
    return TrialDisplay(work.config, StudyRecord(work), search, budget, progress)


def run(display: TrialDisplay, name: str, *results: dict[str, Any]) -> None:
    trial = Trial(name)
    display.on_trial_start(0, [], trial)
    for reported in results:
        display.on_trial_result(0, [], trial, reported)
        trial.last_result = reported
    display.on_trial_complete(0, [], trial)


def test_new_study_has_nothing_to_show(display: TrialDisplay, progress: RecordingProgress) -> None:
    assert progress.counts == "0 done, 0 running"
    assert progress.done == 0


def test_running_trials_count_with_their_epochs(display: TrialDisplay, progress: RecordingProgress) -> None:
    first, second = Trial("0"), Trial("1")
    display.on_trial_start(0, [], first)
    display.on_trial_start(0, [], second)
    display.on_trial_result(0, [], second, result(1, 0.5))
    assert progress.counts.startswith("0 done, 2 running")
    assert progress.done == 0.5  # one of two epochs of one trial


def test_trials_are_counted_by_their_ends_and_the_best_is_shown(
    display: TrialDisplay, progress: RecordingProgress
) -> None:
    run(display, "0", result(1, 0.4), result(2, 0.6))
    run(display, "1", result(1, 0.9))  # stopped: it has no generator
    run(display, "2", result(2, 0.0, diverged="the loss is nan"))
    run(display, "3", result(1, 0.5), result(2, 0.5))
    assert (
        progress.counts
        == "4 done (1 stopped, 1 failed, 4 drawn by the sampler), 0 running; best validation accuracy 60.0 %"
    )
    assert progress.done == 4
    assert progress.messages == ["a trial diverged: the loss is nan"]


def test_rows_of_earlier_runs_count_and_failed_ones_do_not(work: Workspace, progress: RecordingProgress) -> None:
    record = StudyRecord(work)
    record.write_trial(0, PARAMETERS, result(2, 0.7))
    record.write_trial(1, PARAMETERS, result(1, 0.9))
    record.write_trial(2, PARAMETERS, result(2, 0.0, diverged="nan"))
    record.write_trial(3, PARAMETERS, None, error="killed")
    display = make_display(work, progress)
    assert progress.counts == "3 done (1 stopped, 1 failed), 0 running; best validation accuracy 70.0 %"
    assert progress.done == 0, "the first report says that work begins, and the trials' processes still start"
    display.on_trial_start(0, [], Trial("3"))
    assert progress.done == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("Failure # 1\nray::train()\n  File deep\ndim_ray.errors.DataError: no row\n\n", "DataError: no row"),
        ("Failure # 1\nValueError: first\nFailure # 2\nThe actor died.\n\tpid: 7\nIt was killed.\n", "It was killed."),
        (f"Failure # 1\nIt was killed.\nFailure # 2\nray::train()\nDimError: {GIVEN_UP}\n", "It was killed."),
        (None, "unknown reason"),
    ],
)
def test_failed_trial_shows_and_stores_the_last_sentence_of_its_error(
    work: Workspace,
    display: TrialDisplay,
    progress: RecordingProgress,
    tmp_path: Path,
    error: str | None,
    reason: str,
) -> None:
    trial = Trial("5")
    if error is not None:
        trial.error_file = str(tmp_path / "error.txt")
        Path(trial.error_file).write_text(error)
    display.on_trial_start(0, [], trial)
    display.on_trial_error(0, [], trial)
    assert progress.messages == [f"trial 5 failed: {reason} (details are in the log)"]
    assert progress.counts == "1 done (1 failed, 1 drawn by the sampler), 0 running"
    [row] = StudyRecord(work).trials().to_dict("records")
    assert (row["number"], row["state"], row["error"]) == (5, "failed", reason)


def test_trial_that_is_started_again_after_its_process_died_counts_once(
    display: TrialDisplay, progress: RecordingProgress
) -> None:
    trial = Trial("0")
    display.on_trial_start(0, [], trial)
    display.on_trial_result(0, [], trial, result(1, 0.5))
    display.on_trial_start(0, [], trial)
    assert progress.counts.startswith("0 done, 1 running")
    display.on_trial_result(0, [], trial, result(2, 0.5))
    trial.last_result = result(2, 0.5)
    display.on_trial_complete(0, [], trial)
    assert progress.counts == "1 done (1 drawn by the sampler), 0 running; best validation accuracy 50.0 %"


def test_trial_that_took_over_a_result_counts_and_is_told(display: TrialDisplay, progress: RecordingProgress) -> None:
    display.on_trial_reused(3, {**result(2, 0.5), "reused_trial": 1})
    display.on_trial_reused(4, {**result(1, 0.5), "reused_trial": 2})
    display.on_trial_reused(5, {**result(2, 0.0), "reused_trial": 0, "diverged": "nan"})
    display.on_trial_reused(6, {"failed_trial": 1})
    assert progress.counts == "4 done (1 stopped, 2 failed), 0 running"
    assert progress.messages[0] == "trial 3 is the same as trial 1 and has its result"
    assert progress.messages[-1] == "trial 6 is the same as trial 1 and failed with it"


def test_trial_that_the_time_budget_cut_is_neither_done_nor_stopped(
    display: TrialDisplay, progress: RecordingProgress
) -> None:
    run(display, "9", result(1, 0.4))
    assert progress.counts == "0 done, 0 running"


def test_nothing_is_left_for_ray_to_pickle(display: TrialDisplay) -> None:
    assert display.__getstate__() == {}


def test_running_trials_are_shown_between_rungs(display: TrialDisplay, progress: RecordingProgress) -> None:
    for name in ("0", "1"):
        display.on_trial_start(0, [], Trial(name))
    display.show_running({"0": 0.25, "1": 0.125, "8": 1.0})  # the last one has ended
    assert progress.done == 0.375
    display.on_trial_result(0, [], Trial("1"), result(1, 0.5))
    display.show_running({"0": 0.25, "1": 0.25})  # posted before the rung
    assert progress.done == 0.75
    assert progress.counts.startswith("0 done, 2 running")
