"""Loggers by name: curves and parameters of a study's trials, through Ray's own callbacks.

    loggers = begin_loggers(work)
    tune.RunConfig(callbacks=make_callbacks(work, loggers, search.lookup, progress))

Trials are shown by number, and curves by matching epoch. Each logger still reads its own environment variables, such as
MLFLOW_TRACKING_URI or WANDB_MODE.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import LoggerCallback, TBXLoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS, TRAINING_ITERATION

from dim_ray.config import Config
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import UsageError
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.files.filesystem import open_root
from tuning.search.schedulers import TIME_ATTRIBUTE

__all__ = ["begin_loggers", "check_loggers", "logger_folder", "make_callbacks"]

log = logging.getLogger(__name__)

_PACKAGES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "'dim-ray[mlflow]'"),
    "wandb": ("wandb", "'dim-ray[wandb]'"),
}
"""Module that each needs, and its name for pip."""
_WANDB_PROJECT = "dim-ray"
_NAME_DIGITS = 4

Lookup = Callable[[str], tuple[int, Mapping[str, Any]]]
"""Function that returns number and parameters of one of Tune's trials, as `StudySearch.lookup`."""


def check_loggers(config: Config, dataset: Dataset) -> None:
    """Raise a `UsageError` if a package that the study's loggers need isn't installed."""
    for name in config.study.loggers:
        module, package = _PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"study.loggers has {name!r}, which needs the package {module}: pip install {package}, or leave it out "
                "of --study.loggers."
            )


def begin_loggers(work: Workspace) -> dict[str, LoggerCallback]:
    """Return the study's loggers by name, set up; raise a UsageError if one can't be, such as without an account."""
    loggers: dict[str, LoggerCallback] = {name: _MAKERS[name](work) for name in work.config.study.loggers}
    for name, logger in loggers.items():
        try:
            logger.setup()
        except Exception as error:  # whatever each of them raises
            raise UsageError(
                f"study.loggers has {name!r}, which can't begin: {error} Set it up, or leave it out of --study.loggers."
            ) from error
    return loggers


def make_callbacks(
    work: Workspace, loggers: Mapping[str, LoggerCallback], lookup: Lookup, progress: Progress
) -> list[tune.Callback]:
    """Return callbacks for Ray Tune, given loggers from `begin_loggers`."""
    return [TrialLogger(name, logger, logger_folder(work, name), lookup, progress) for name, logger in loggers.items()]


def logger_folder(work: Workspace, name: str) -> Path:
    """Return the folder of a logger's files: in the study on a local storage, otherwise a temporary one."""
    root = open_root(work.config.storage.root)
    if root.is_local:
        return Path(root.path_of(f"studies/{work.study}/{name}"))
    return Path(_temporary_folder(), work.study, name)


@cache
def _temporary_folder() -> str:
    """Return a folder of this process, whose name nobody can predict."""
    return tempfile.mkdtemp(prefix="dim_ray-curves-")


class TrialLogger(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Callback that shows one of Ray's loggers each trial by its number, and its results by matching epoch.

    A logger that fails, for example because its server is away, is dropped, and the study continues.
    """

    def __init__(self, name: str, logger: LoggerCallback, folder: Path, lookup: Lookup, progress: Progress) -> None:
        self._name = name
        self._logger: LoggerCallback | None = logger
        self._folder = folder
        self._lookup = lookup
        self._progress = progress
        self._trials: dict[str, _Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune to save

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(lambda logger: logger.log_trial_start(self._seen(trial)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._tell(lambda logger: logger.log_trial_result(iteration, self._seen(trial), _curves(result)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(lambda logger: logger.log_trial_end(self._seen(trial), failed=False))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(lambda logger: logger.log_trial_end(self._seen(trial), failed=True))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._tell(lambda logger: logger.on_experiment_end(list(self._trials.values())))

    def _tell(self, action: Callable[[LoggerCallback], None]) -> None:
        if self._logger is None:
            return
        try:
            action(self._logger)
        except Exception as error:  # whatever each of them raises
            self._logger = None
            log.warning("The logger %s failed.", self._name, exc_info=True)
            self._progress.message(f"the logger {self._name} failed, and the study continues without it: {error}")

    def _seen(self, trial: Any) -> _Trial:
        if trial.trial_id not in self._trials:
            self._trials[trial.trial_id] = _Trial(trial.trial_id, *self._lookup(trial.trial_id), self._folder)
        return self._trials[trial.trial_id]


class _Trial:
    """A trial as Ray's loggers see it."""

    def __init__(self, trial_id: str, number: int, parameters: Mapping[str, Any], folder: Path) -> None:
        self.trial_id = trial_id
        self.config = self.evaluated_params = dict(parameters)
        self._name = f"trial-{number:0{_NAME_DIGITS}d}"
        self._path = folder / self._name

    def __str__(self) -> str:
        return self._name

    @property
    def local_path(self) -> str:
        # Made on first use: MLflow writes no files, and W&B's process expects the folder.
        self.init_local_path()
        return str(self._path)

    def init_local_path(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)


def _curves(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the measurements, counted by matching epoch and not by Tune's iteration."""
    measured = {
        name: value for name, value in result.items() if isinstance(value, float) and name not in AUTO_RESULT_KEYS
    }
    return {**measured, TRAINING_ITERATION: result[TIME_ATTRIBUTE]}


def _mlflow(work: Workspace) -> LoggerCallback:
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "0")  # its messages go to the log file, as all others
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=work.study)


def _wandb(work: Workspace) -> LoggerCallback:
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(
        project=os.environ.get("WANDB_PROJECT", _WANDB_PROJECT),
        group=work.study,
        mode=os.environ.get("WANDB_MODE"),  # its process on a joined cluster has the cluster's environment
        settings={"silent": True},
    )


_MAKERS: Mapping[str, Callable[[Workspace], LoggerCallback]] = {
    "tensorboard": lambda work: TBXLoggerCallback(),
    "mlflow": _mlflow,
    "wandb": _wandb,
}
