"""One trial: distil a generator with the chosen parameters, and report its validation accuracy at rungs.

It runs in its own process with one worker, and through Ray Train with several.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from dim_ray.core.training.ports import Reporter, SingleWorker
from dim_ray.distributed.board import is_given_up
from dim_ray.distributed.bridge import BoardReporter, told_to
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.trainer import run_workers, trial_shards
from dim_ray.distributed.validator import SlotValidator
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.generators import distill_generator, generator_fingerprint, load_module
from dim_ray.pipeline.validation import WALL_SECONDS, at_rungs, validation_in
from dim_ray.pipeline.workspace import Workspace, on_device
from tuning.search.schedulers import METRIC, METRIC_STD, TIME_ATTRIBUTE
from tuning.search.space import configure

__all__ = ["GIVEN_UP", "run_trial"]

GIVEN_UP = "the trial has failed too often"
"""Error of a trial that isn't tried again; those before it say why."""
_SECONDS_BETWEEN_LOOKS = 0.5


def run_trial(parameters: dict[str, Any], *, work: Workspace, placement: Placement, board: Any) -> None:
    """Run a trial as Ray Tune's trainable, with the parameters that Optuna chose."""
    trial_work = replace(work, config=configure(work.config, parameters))
    fingerprint, name = generator_fingerprint(trial_work), tune.get_context().get_trial_id()
    _begin(name, board, work.config.study.max_failures)
    held = {"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker}
    if placement.num_workers == 1:
        with told_to(board):
            own = on_device(trial_work, placement.cpus_per_worker, gpus=held["GPU"])
            _run_here(own, held, BoardReporter(board, name))
        return
    if trial_work.artifacts.exists("generators", fingerprint):
        with told_to(board):
            _measure(on_device(trial_work, placement.cpus_per_worker, gpus=0.0), fingerprint, held)
        return
    try:
        run_workers(
            functools.partial(trial_shards, name),
            trial_work,
            placement,
            what="the trial",
            board=board,
            callbacks=[TuneReportCallback()],
        )
    except DivergedError as error:
        _report_divergence(trial_work, error)
        return
    card = trial_work.artifacts.read_card("generators", fingerprint)
    measured = {**card["validation"], WALL_SECONDS: card["wall_seconds"]}
    known = {name: measured[name] for name in (METRIC, METRIC_STD, WALL_SECONDS) if name in measured}
    tune.report({TIME_ATTRIBUTE: trial_work.config.matching.epochs, **known})


def _begin(name: str, board: Any, max_failures: int) -> None:
    before = ray.get(board.begin.remote(name, ray.get_runtime_context().get_node_id()))
    if is_given_up(before, len(before), max_failures):
        raise DimError(GIVEN_UP)


def _run_here(work: Workspace, held: Mapping[str, float], also: Reporter) -> None:
    try:
        distill_generator(work, _TuneReporter(also), SingleWorker(), SlotValidator(at_rungs(work), held))
    except DivergedError as error:
        _report_divergence(work, error)


def _measure(work: Workspace, fingerprint: str, held: Mapping[str, float]) -> None:
    """Measure a stored generator with the resources of one worker: the trial itself holds none."""
    validator = SlotValidator(work, held)
    try:
        validator.begin(load_module(work, fingerprint, work.config.evaluation.weights))
        while (measured := validator.take(wait=False)) is None:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    except DivergedError as error:
        _report_divergence(work, error)
        return
    tune.report({TIME_ATTRIBUTE: work.config.matching.epochs, **measured})


def _report_divergence(work: Workspace, error: DivergedError) -> None:
    # Tune and Optuna take only finite numbers, so the outcome is a field of its own.
    tune.report({TIME_ATTRIBUTE: work.config.matching.epochs, METRIC: 0.0, "diverged": str(error)})


class _TuneReporter:
    """Reporter that passes rungs to Ray Tune, and everything to another one."""

    def __init__(self, also: Reporter) -> None:
        self._also = also

    def advance(self, done: float, total: int, note: str = "") -> None:
        self._also.advance(done, total, note)

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._also.report(step, total, metrics)
        if found := validation_in(step, metrics):
            epoch, measured = found
            tune.report({TIME_ATTRIBUTE: epoch, **measured})
