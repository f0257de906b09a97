from __future__ import annotations

import importlib.util
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from dim_ray.errors import UsageError
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.recording import PARAMETERS, RecordingProgress
from tests.helpers.small import make_work
from tests.store.conftest import object_store  # noqa: F401  # a fixture
from tuning import loggers
from tuning.loggers import TrialLogger, begin_loggers, check_loggers, logger_folder, make_callbacks
from tuning.search.optuna_search import METRIC
from tuning.study import run_studies


@dataclass
class Trial:
    """What a logger sees of Ray Tune's trial."""

    trial_id: str


def result(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    """Returns what Tune hands on: Tune's own counter begins anew with each process, and says nothing."""
    return {"epoch": epoch, METRIC: accuracy, "training_iteration": 1, "time_total_s": 3.0, "pid": 77, **more}


def identify(trial_id: str) -> tuple[int, dict[str, Any]]:
    return int(trial_id), {**PARAMETERS, "generator.capacity": 8 + int(trial_id)}


def with_loggers(work: Workspace, *names: str) -> Workspace:
    return replace(work, config=replace(work.config, study=replace(work.config.study, loggers=names)))


def callbacks(work: Workspace, progress: RecordingProgress) -> list[Any]:
    return make_callbacks(work, begin_loggers(work), identify, progress)


def play(shown: list[Any], *trials: str) -> None:
    """Plays a study of trials with two rungs, of which the last one fails at its second."""
    for logger in shown:
        for name in trials:
            logger.on_trial_start(0, [], Trial(name))
        for epoch in (1, 3):
            for name in trials:
                accuracy = 0.1 * epoch + 0.01 * int(name)
                logger.on_trial_result(0, [], Trial(name), result(epoch, accuracy, matching_loss=0.5 / epoch))
        for name in trials[:-1]:
            logger.on_trial_complete(0, [], Trial(name))
        logger.on_trial_error(0, [], Trial(trials[-1]))
        logger.on_experiment_end([])


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


@pytest.fixture
def progress() -> RecordingProgress:
    return RecordingProgress()


def events(folder: Path) -> Iterator[Any]:
    """Reads TensorBoard's files: records of a length, its checksum, an event and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, pytest.approx(value.simple_value)))
    return found


def hyperparameters(folder: Path) -> dict[str, float]:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    for event in events(folder):
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                return {name: own.number_value for name, own in data.session_start_info.hparams.items()}
    raise AssertionError(f"no hyperparameters below {folder}")


def test_tensorboard_has_each_trials_accuracy_by_epoch_and_its_parameters(
    work: Workspace, progress: RecordingProgress, tmp_path: Path
) -> None:
    play(callbacks(work, progress), "0", "12")
    folder = tmp_path / "studies/tiny/tensorboard"
    assert folder == logger_folder(work, "tensorboard")
    assert sorted(path.name for path in folder.iterdir()) == ["trial-0000", "trial-0012"]
    assert curves(folder / "trial-0012") == {
        f"ray/tune/{METRIC}": [(1, 0.22), (3, 0.42)],
        "ray/tune/matching_loss": [(1, 0.5), (3, 0.5 / 3)],
    }
    assert hyperparameters(folder / "trial-0012") == {**PARAMETERS, "generator.capacity": 20}
    assert progress.messages == []


def test_trial_that_goes_on_in_another_process_goes_on_in_its_folder(
    work: Workspace, progress: RecordingProgress
) -> None:
    for epoch in (1, 3):
        [logger] = callbacks(work, progress)
        logger.on_trial_start(0, [], Trial("4"))
        logger.on_trial_result(0, [], Trial("4"), result(epoch, 0.5))
        logger.on_trial_complete(0, [], Trial("4"))
        time.sleep(1.1)  # files are named by the second; no process begins within one
    found = curves(logger_folder(work, "tensorboard") / "trial-0004")
    assert sorted(step for step, _ in found[f"ray/tune/{METRIC}"]) == [1, 3]


def test_files_are_local_where_the_storage_is_not(object_store: str) -> None:  # noqa: F811
    folder = logger_folder(make_work(object_store), "tensorboard")
    assert folder == logger_folder(make_work(object_store), "tensorboard")
    root = folder.parents[1]
    assert folder == root / "tiny" / "tensorboard"
    assert root.stat().st_mode & 0o777 == 0o700
    root.rmdir()


def test_no_loggers_are_none(work: Workspace, progress: RecordingProgress) -> None:
    assert callbacks(with_loggers(work), progress) == []
    check_loggers(with_loggers(work).config, work.dataset)


@pytest.mark.parametrize(
    ("name", "install"),
    [("tensorboard", "tensorboardX"), ("mlflow", r"'dim-ray\[mlflow\]'"), ("wandb", r"'dim-ray\[wandb\]'")],
)
def test_logger_whose_package_is_missing_is_refused_with_the_command_that_installs_it(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, install: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=f"study.loggers has '{name}'.*pip install {install},"):
        check_loggers(with_loggers(work, name).config, work.dataset)


class FailingLogger:
    """Ray's logger of a server that goes away."""

    def __init__(self, fails_at: str) -> None:
        self._fails_at = fails_at
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def act(*arguments: Any, **options: Any) -> None:
            self.asked.append(name)
            if name == self._fails_at:
                raise ConnectionError("no route to host")

        return act


def test_logger_that_fails_is_left_out_and_ends_no_study(progress: RecordingProgress, tmp_path: Path) -> None:
    failing: Any = FailingLogger("log_trial_result")
    play([TrialLogger("mlflow", failing, tmp_path, identify, progress)], "0", "1")
    assert failing.asked == ["log_trial_start", "log_trial_start", "log_trial_result"]
    assert progress.messages == ["the logger mlflow failed, and the study continues without it: no route to host"]


def test_logger_that_cannot_begin_is_refused(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loggers._MAKERS, "wandb", lambda work: FailingLogger("setup"))
    with pytest.raises(UsageError, match=r"study.loggers has 'wandb', which can't begin: no route to host"):
        begin_loggers(with_loggers(work, "wandb"))


def test_study_whose_logger_cannot_begin_builds_nothing(
    work: Workspace, progress: RecordingProgress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(loggers._MAKERS, "wandb", lambda work: FailingLogger("setup"))
    with pytest.raises(UsageError, match="which can't begin"):
        run_studies([with_loggers(work, "wandb")], progress)
    assert not (tmp_path / "teachers").exists()
    assert not ray.is_initialized()


def test_nothing_is_left_for_ray_to_pickle(work: Workspace, progress: RecordingProgress) -> None:
    [logger] = callbacks(work, progress)
    assert logger.__getstate__() == {}


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_trial_with_accuracy_by_epoch_and_parameters(
    work: Workspace, progress: RecordingProgress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    play(callbacks(with_loggers(work, "mlflow"), progress), "0", "12")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"trial-0000": "FINISHED", "trial-0012": "FAILED"}
    run = runs["trial-0012"]
    assert run.data.params == {name: str(value) for name, value in {**PARAMETERS, "generator.capacity": 20}.items()}
    history = client.get_metric_history(run.info.run_id, METRIC)
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.22), (3, pytest.approx(0.42))]
    assert progress.messages == []
    assert not list(tmp_path.glob("studies/tiny/mlflow"))


@pytest.mark.ray
@pytest.mark.slow
def test_wandb_has_a_run_for_each_trial_without_a_network(
    work: Workspace, progress: RecordingProgress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        play(callbacks(with_loggers(work, "wandb"), progress), "0", "12")
    finally:
        ray.shutdown()
    assert progress.messages == []
    files = {path.relative_to(tmp_path).parts[3]: path for path in tmp_path.rglob("run-*.wandb")}
    assert sorted(files) == ["trial-0000", "trial-0012"]
    text = files["trial-0012"].read_bytes()
    for word in (b"dim-ray", b"tiny", b"trial-0012", METRIC.encode(), b"adversarial_weight"):
        assert word in text
