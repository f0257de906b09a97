"""Optuna's study in line with the rows, when a study begins or continues.

    settle(journal, "digits-0123abcd", config, finished=record.finished(), failed=record.failed())

Rows are what counts: the journal of a driver that died may lack the last results, or be of an older version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from dim_ray.config import Config, StudyConfig
from dim_ray.store.schema import DRAWERS
from tuning.search.objectives import open_study
from tuning.search.space import decoded, encoded, open_names, search_space

__all__ = [
    "DRAWN_BY",
    "NUMBER",
    "PARAMETERS",
    "RETRY",
    "SAMPLER",
    "START",
    "WARM_START",
    "Finished",
    "settle",
    "told_trial",
]

NUMBER, PARAMETERS, DRAWN_BY = "number", "parameters", "drawn_by"
"""Attributes of Optuna's trials: the study's own number, the parameters for a reader, and what drew the trial."""
START, SAMPLER, WARM_START, RETRY = DRAWERS
"""What draws trials; also in their rows."""

Parameters = Mapping[str, Any]


class Finished(NamedTuple):
    """A finished trial, as its row has it."""

    parameters: Parameters
    values: Sequence[float] | None
    """Objectives; None if one wasn't measured."""
    stopped_epoch: int | None = None
    """Epoch at which the scheduler stopped it."""
    drawn_by: str | None = None
    """What drew it; None in rows of older versions."""


def settle(
    storage: BaseStorage,
    study_name: str,
    config: Config,
    *,
    finished: Mapping[int, Finished],
    failed: Mapping[int, Parameters],
) -> None:
    """Bring the journal in line with the rows, after a driver died or trials failed.

    Running and failed trials are queued again with their parameters and number, unless they finished after all.
    Finished ones that the journal doesn't know are added.
    """
    study = open_study(storage, study_name, config)
    again = dict(failed)
    known, queued = set(), set()
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs.get(NUMBER, -1)
        if trial.state == TrialState.WAITING:
            queued.add(number)
        elif trial.state == TrialState.RUNNING:
            row = finished.get(number)
            state = TrialState.FAIL if row is None else _state(row, trial)
            study.tell(trial.number, row.values if row and state == TrialState.COMPLETE else None, state=state)
            parameters = decoded(config.study, trial.params)
            if row is None and number >= 0 and set(parameters) == set(open_names(config.study, parameters)):
                again[number] = parameters
            if state != TrialState.FAIL:
                known.add(number)
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            known.add(number)
    for number, chosen in again.items():
        if number not in queued:
            retried = {NUMBER: number, DRAWN_BY: RETRY}
            study.enqueue_trial(encoded(config.study, chosen), user_attrs=retried)
    for number, row in finished.items():
        if number not in known and row.values is not None:
            own = {NUMBER: number} | ({DRAWN_BY: row.drawn_by} if row.drawn_by else {})
            study.add_trial(told_trial(config.study, row.parameters, row.values, row.stopped_epoch, attributes=own))


def told_trial(
    study: StudyConfig,
    parameters: Parameters,
    values: Sequence[float],
    stopped_epoch: int | None,
    *,
    attributes: Mapping[str, Any],
) -> FrozenTrial:
    """Return a trial for Optuna's study as if it had run there: pruned if the scheduler stopped it at an epoch."""
    space, own = search_space(study), encoded(study, parameters)
    return create_trial(
        state=TrialState.COMPLETE if stopped_epoch is None else TrialState.PRUNED,
        params=own,
        distributions={name: space[name] for name in own},
        values=values,
        intermediate_values={} if stopped_epoch is None else {stopped_epoch: values[0]},
        user_attrs={**attributes, PARAMETERS: dict(parameters)},
    )


def _state(row: Finished, trial: FrozenTrial) -> TrialState:
    """Return how Optuna's unfinished trial ended; FAIL if it lacks what the row knows."""
    if row.values is None:
        return TrialState.FAIL
    if row.stopped_epoch is None:
        return TrialState.COMPLETE
    return TrialState.PRUNED if row.stopped_epoch in trial.intermediate_values else TrialState.FAIL
