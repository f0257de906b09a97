"""The search as Ray Tune sees it: Optuna with a journal."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from dim_ray.config import Config
from dim_ray.pipeline.validation import WALL_SECONDS
from tuning.search.objectives import metric_and_mode, open_study
from tuning.search.samplers import make_sampler
from tuning.search.schedulers import METRIC, METRIC_STD, TIME_ATTRIBUTE
from tuning.search.space import asked_space, configure, open_names, search_space
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit

if TYPE_CHECKING:
    from tuning.record import StudyRecord

__all__ = [
    "FAILED_TRIAL",
    "METRIC",
    "REUSED_SECONDS",
    "REUSED_TRIAL",
    "SECONDS",
    "TIME_ATTRIBUTE",
    "StudySearch",
    "settle",
]

SECONDS = "time_total_s"
"""Seconds of a trial in Tune's results: of its last process, until the trial has ended here."""
REUSED_TRIAL, REUSED_SECONDS = "reused_trial", "reused_seconds"
"""Number and seconds of the trial whose result was reused."""
FAILED_TRIAL = "failed_trial"
"""Number of the equal trial that failed."""
_NUMBER, _GENERATOR = "number", "generator"  # attributes of Optuna's trials

Parameters = Mapping[str, Any]
Result = Mapping[str, Any]
Finished = Mapping[int, tuple[Parameters, Sequence[float] | None]]
"""Parameters and objectives, if any, of finished trials by number."""


class StudySearch(OptunaSearch):  # type: ignore[misc]  # ray has no types
    """Optuna in Ray Tune, with the study's own trial numbers, telling the record before Optuna that a trial ended.

    If the driver dies between the two, the row is there and the trial isn't run again. A trial with the same generator
    as another of the study isn't run: it ends with that one's result, which then has REUSED_TRIAL.

    When the time budget is over, no trial is drawn, and the trials that it cut stay unfinished. A draw beyond the size
    limit doesn't become a trial. `on_reused` is called with number and result of a trial that took over the outcome of
    an equal one.
    """

    def __init__(
        self,
        config: Config,
        storage: BaseStorage,
        study_name: str,
        *,
        record: StudyRecord,
        num_trials: int,
        time_budget: TimeBudget,
        limit: SizeLimit | None = None,
        on_reused: Callable[[int, Result], None] = lambda number, result: None,
    ) -> None:
        self._config = config
        self._record = record
        self._taken = set(record.finished())
        self._results = dict(record.results())
        self._num_left = num_trials
        self._time_budget = time_budget
        self._limit = limit
        self._on_reused = on_reused
        self._waiting: dict[str, list[str]] = {}  # by generator of a running trial, the names of equal ones
        num_drawn = len(open_study(storage, study_name, config).get_trials(deepcopy=False))
        metric, mode = metric_and_mode(config.study)
        super().__init__(
            space=asked_space(config.study),
            metric=metric,
            mode=mode,
            storage=storage,
            study_name=study_name,
            sampler=make_sampler(config, num_drawn),
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Ask Optuna for a trial and number it; an interrupted one keeps its number.

        Returns:
            Parameters of a trial to run, or Tune's word for the end.
        """
        if trial_id in self._ot_trials:
            return self.lookup(trial_id)[1]
        while self._num_left > 0 and not self._time_budget.is_over():
            parameters: dict[str, Any] = super().suggest(trial_id)
            if self._limit is not None and not self._limit.holds(configure(self._config, parameters).generator):
                self._draw_smaller(trial_id, self._limit)
                continue
            self._num_left -= 1
            number = self._give_number(trial_id)
            generator = self._record.generator_of(parameters)
            self._ot_trials[trial_id].set_user_attr(_GENERATOR, generator)
            if generator not in self._waiting and generator not in self._results:
                self._waiting[generator] = []
                return parameters
            name = f"{trial_id}-{number}"  # Tune keeps asking under its own name
            self._ot_trials[name] = self._ot_trials.pop(trial_id)
            if generator in self._results:
                self._reuse(name, generator)
            else:
                self._waiting[generator].append(name)
        finished: str = Searcher.FINISHED
        return finished

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        # By matching epoch: Tune's iteration starts again with every process.
        super().on_trial_result(trial_id, {**result, TRAINING_ITERATION: result[TIME_ATTRIBUTE]})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """End a trial and its equals, first in the record, then in Optuna."""
        if trial_id in self._completed_trials:
            return
        if self._time_budget.has_cut(trial_id):
            self._completed_trials.add(trial_id)
            return
        number, parameters = self.lookup(trial_id)
        if result and METRIC in result:
            seconds = max(
                result.get(SECONDS, 0.0), result.get(WALL_SECONDS, 0.0)
            )  # part of it may be of an earlier process
            result = dict(self._record.measured(parameters, {**result, SECONDS: seconds}))
        self._taken.add(number)  # a failed trial has a row, too
        self._record.write_trial(number, parameters, result)
        if result and result.keys() & {FAILED_TRIAL, REUSED_TRIAL}:
            self._on_reused(number, result)
        super().on_trial_complete(trial_id, None if error else result, error)
        generator = self._record.generator_of(parameters)
        if result and METRIC in result:
            self._results.setdefault(generator, (number, result))
        for name in self._waiting.pop(generator, []):
            if generator in self._results:
                self._reuse(name, generator)
            else:
                self.on_trial_complete(name, {FAILED_TRIAL: number}, error=True)

    def save(self, checkpoint_path: str) -> None:
        pass  # the journal has everything

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def lookup(self, trial_id: str) -> tuple[int, dict[str, Any]]:
        """Return number and parameters of one of Tune's trials."""
        trial = self._ot_trials[trial_id]
        return trial.user_attrs[_NUMBER], trial.params

    @property
    def num_ended(self) -> int:
        """Trials of the study that are finished or ended in this run, failed ones included."""
        return len(self._taken)

    def _give_number(self, trial_id: str) -> int:
        trial = self._ot_trials[trial_id]
        if _NUMBER not in trial.user_attrs:
            live = [t for t in self._ot_study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
            used = self._taken | {t.user_attrs.get(_NUMBER) for t in live}
            trial.set_user_attr(_NUMBER, next(number for number in itertools.count() if number not in used))
        number: int = trial.user_attrs[_NUMBER]
        return number

    def _draw_smaller(self, trial_id: str, limit: SizeLimit) -> None:
        """Prune a trial whose generator is too large, and queue the parameters of one within the limit."""
        trial = self._ot_trials.pop(trial_id)
        self._ot_study.tell(trial, state=TrialState.PRUNED)  # samplers that learn count it among the worst
        self._ot_study.enqueue_trial(random.Random(trial.number).choice(limit.choices()))

    def _reuse(self, name: str, generator: str) -> None:
        number, known = self._results[generator]
        kept = {key: known[key] for key in (METRIC, METRIC_STD, TIME_ATTRIBUTE, "diverged") if key in known}
        seconds = known.get(SECONDS, 0.0)
        self.on_trial_complete(name, {**kept, REUSED_TRIAL: number, REUSED_SECONDS: seconds, SECONDS: 0.0})


def settle(
    storage: BaseStorage, study_name: str, config: Config, *, finished: Finished, failed: Mapping[int, Parameters]
) -> None:
    """Bring the journal in line with the rows, after a driver died or trials failed.

    Running and failed trials are queued again with their parameters and number, unless they finished after all.
    Finished ones that the journal doesn't know are added.
    """
    study = open_study(storage, study_name, config)
    space = search_space(config.study)
    again = dict(failed)
    known, queued = set(), set()
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs.get(_NUMBER, -1)
        if trial.state == TrialState.WAITING:
            queued.add(number)
        elif trial.state == TrialState.RUNNING:
            _, values = finished.get(number, ({}, None))
            study.tell(trial.number, values, state=TrialState.FAIL if values is None else TrialState.COMPLETE)
            is_whole = set(trial.params) == set(open_names(config.study, trial.params))
            if number >= 0 and number not in finished and is_whole:
                again[number] = trial.params
            known.add(number)
        elif trial.state == TrialState.COMPLETE:
            known.add(number)
    for number, parameters in again.items():
        if number not in queued:
            study.enqueue_trial(dict(parameters), user_attrs={_NUMBER: number})
    for number, (parameters, values) in finished.items():
        if number not in known and values is not None:
            kinds = {name: space[name] for name in parameters}
            study.add_trial(
                create_trial(params=dict(parameters), distributions=kinds, values=values, user_attrs={_NUMBER: number})
            )
