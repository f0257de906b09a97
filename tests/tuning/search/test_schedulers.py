"""Schedulers on recorded curves, without Ray Tune."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dim_ray.config import Config
from dim_ray.config.study import SCHEDULERS, Scheduler
from dim_ray.pipeline.generators import rung_epochs
from tests.helpers.small import make_config
from tuning.search.schedulers import METRIC, make_scheduler

CURVES = [{2: 0.5, 6: 0.8}, {2: 0.4}, {2: 0.6, 6: 0.7}, {2: 0.45}, {2: 0.9, 6: 0.95}]
"""Validation accuracy by epoch, as five trials reported them."""


def make_config_of(root: Path, *, epochs: int, grace: int, factor: int, scheduler: Scheduler = "asha") -> Config:
    config = make_config(root)
    return replace(
        config,
        matching=replace(config.matching, epochs=epochs),
        study=replace(config.study, grace_epochs=grace, reduction_factor=factor, scheduler=scheduler),
    )


class _Trial(SimpleNamespace):
    """What a scheduler sees of Ray Tune's trial."""

    def __init__(self, name: str) -> None:
        super().__init__(trial_id=name, status="RUNNING")

    def __hash__(self) -> int:
        return hash(self.trial_id)


def decide(config: Config, curves: list[dict[int, float]]) -> list[list[str]]:
    """Returns a scheduler's decisions on trials that report their curves one after the other."""
    scheduler = make_scheduler(config, 24)
    waiting = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])  # as Tune always has some
    decisions = []
    for number, curve in enumerate(curves):
        trial = _Trial(str(number))
        scheduler.on_trial_add(None, trial)
        said = []
        for epoch, accuracy in curve.items():
            # Tune's own counter begins anew in a resumed process: it must not matter.
            said.append(
                scheduler.on_trial_result(waiting, trial, {"epoch": epoch, METRIC: accuracy, "training_iteration": 1})
            )
            if said[-1] == scheduler.STOP:
                break
        decisions.append(said)
    return decisions


def test_weak_trials_are_stopped_at_the_rung_and_good_ones_go_on(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=6, grace=2, factor=3)
    goes_on, is_stopped = ["CONTINUE", "STOP"], ["STOP"]  # at the last epoch every trial is stopped
    assert decide(config, CURVES) == [goes_on, is_stopped, goes_on, is_stopped, goes_on]


def test_every_trial_reaches_the_first_rung_and_ends_with_the_last_epoch(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=9, grace=3, factor=3)
    curves = [{1: 0.9, 2: 0.9, 3: 0.9, 9: 0.9}, {1: 0.0, 2: 0.0, 3: 0.1}]
    assert decide(config, curves) == [["CONTINUE", "CONTINUE", "CONTINUE", "STOP"], ["CONTINUE", "CONTINUE", "STOP"]]


def test_diverged_trial_does_not_end_the_others(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=6, grace=2, factor=3)
    assert decide(config, [{2: 0.5, 6: 0.0}, {2: 0.6, 6: 0.5}]) == [["CONTINUE", "STOP"], ["CONTINUE", "STOP"]]


@pytest.mark.parametrize(("epochs", "grace", "factor"), [(6, 2, 3), (100, 1, 3), (81, 1, 3), (64, 1, 4), (5, 5, 2)])
def test_generators_are_measured_at_the_rungs_of_asha(tmp_path: Path, epochs: int, grace: int, factor: int) -> None:
    config = make_config_of(tmp_path, epochs=epochs, grace=grace, factor=factor)
    [bracket] = make_scheduler(config, 24)._brackets
    rungs = {milestone for milestone, _ in bracket._rungs}
    assert rungs | {epochs} == set(rung_epochs(config, 24))


def test_without_a_scheduler_no_trial_is_stopped_and_none_measured_before_its_end(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=6, grace=2, factor=3, scheduler="none")
    assert decide(config, CURVES) == [["CONTINUE"] * len(curve) for curve in CURVES]
    assert rung_epochs(config, 24) == [6]


def test_median_stops_what_is_below_the_median_of_the_others_once_there_are_three(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=6, grace=2, factor=3, scheduler="median")
    curves = [{2: 0.5}, {2: 0.1}, {2: 0.7}, {2: 0.45}, {2: 0.6}]
    assert decide(config, curves) == [["CONTINUE"], ["CONTINUE"], ["CONTINUE"], ["STOP"], ["CONTINUE"]]


def test_median_leaves_every_trial_the_epochs_of_grace_and_pauses_none(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=6, grace=4, factor=3, scheduler="median")
    assert {said for curve in decide(config, [{2: 0.9 - 0.1 * i, 3: 0.1} for i in range(6)]) for said in curve} == {
        "CONTINUE"
    }


def test_brackets_of_hyperband_begin_at_asha_s_rungs_and_the_last_stops_nothing(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=18, grace=2, factor=3, scheduler="hyperband")
    rungs = [sorted(milestone for milestone, _ in b._rungs) for b in make_scheduler(config, 24)._brackets]
    assert rungs == [[2, 6, 18], [6, 18], [18]]
    assert set(rungs[0]) == set(rung_epochs(config, 24))


def test_hyperband_stops_weak_trials_in_some_brackets_and_lets_some_go_on(tmp_path: Path) -> None:
    config = make_config_of(tmp_path, epochs=18, grace=2, factor=3, scheduler="hyperband")
    np.random.seed(0)  # noqa: NPY002  # Ray Tune draws brackets from it
    said = [decision[0] for decision in decide(config, [{2: 0.9 - 0.01 * number} for number in range(40)])]
    assert 0 < said.count("STOP") < 39


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_counts_our_epochs(tmp_path: Path, scheduler: Scheduler) -> None:
    config = make_config_of(tmp_path, epochs=6, grace=6, factor=3, scheduler=scheduler)
    for said in decide(config, [{1: 0.1, 5: 0.1}] * 6):  # the first rung is never reached
        assert said == ["CONTINUE", "CONTINUE"]
