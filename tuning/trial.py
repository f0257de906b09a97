"""One trial: distil a generator with the chosen parameters, and report its validation accuracy at rungs.

It runs in its own process with one worker, and through Ray Train with several.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from dim_ray.core.training.ports import SingleWorker
from dim_ray.distributed.board import is_given_up
from dim_ray.distributed.bridge import BoardReporter, RungReporter, told_to
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.measure import validate_elsewhere
from dim_ray.distributed.trainer import run_workers, trial_shards
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.generators import distill_generator, generator_fingerprint
from dim_ray.pipeline.validation import WALL_SECONDS, at_rungs
from dim_ray.pipeline.workspace import Workspace, on_device
from tuning.search.schedulers import METRIC, METRIC_STD, TIME_ATTRIBUTE
from tuning.search.space import configure

__all__ = ["GIVEN_UP", "run_trial"]

GIVEN_UP = "the trial has failed too often"
"""Error of a trial that isn't tried again; those before it say why."""


def run_trial(parameters: dict[str, Any], *, work: Workspace, placement: Placement, board: Any) -> None:
    """Run a trial as Ray Tune's trainable, with the parameters that Optuna chose."""
    work = replace(work, config=configure(work.config, parameters))
    name, epochs = tune.get_context().get_trial_id(), work.config.matching.epochs
    _begin(name, board, work.config.study.max_failures)
    try:
        if placement.num_workers == 1:
            with told_to(board):
                work = on_device(work, placement.cpus_per_worker, gpus=placement.gpus_per_worker)
                reporter = RungReporter(BoardReporter(board, name), tune.report, with_last=True)
                distill_generator(work, reporter, SingleWorker(), at_rungs(work))
        else:
            tune.report({TIME_ATTRIBUTE: epochs, **_run_workers(name, work, placement, board)})
    except DivergedError as error:
        # Tune and Optuna take only finite numbers, so the outcome is a field of its own.
        tune.report({TIME_ATTRIBUTE: epochs, METRIC: 0.0, "diverged": str(error)})


def _begin(name: str, board: Any, max_failures: int) -> None:
    before = ray.get(board.begin.remote(name, ray.get_runtime_context().get_node_id()))
    if is_given_up(before, len(before), max_failures):
        raise DimError(GIVEN_UP)


def _run_workers(name: str, work: Workspace, placement: Placement, board: Any) -> Mapping[str, float]:
    """Distil on several workers, of which this process is none, and return the measurements of the end."""
    fingerprint = generator_fingerprint(work)
    if work.artifacts.exists("generators", fingerprint):
        return validate_elsewhere(work, fingerprint, placement)
    job = functools.partial(trial_shards, name)
    run_workers(job, work, placement, what="the trial", board=board, callbacks=[TuneReportCallback()])
    card = work.artifacts.read_card("generators", fingerprint)
    measured = {**card["validation"], WALL_SECONDS: card["wall_seconds"]}
    return {name: measured[name] for name in (METRIC, METRIC_STD, WALL_SECONDS) if name in measured}
