"""The search as Ray Tune sees it: Optuna, which remembers in a journal."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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
"""What a trial has taken so far, in Tune's results: in its last process, until it has ended here."""
REUSED_TRIAL, REUSED_SECONDS = "reused_trial", "reused_seconds"
"""Number of the trial whose result another one took over, and what that one had taken."""
FAILED_TRIAL = "failed_trial"
"""Number of the trial that another one waited for, and that failed."""
_NUMBER, _GENERATOR = "number", "generator"  # attributes of Optuna's trials

Measure = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
"""Takes a trial's parameters and its last result, and returns that with all objectives."""

TrialEnd = Callable[[int, Mapping[str, Any], Mapping[str, Any] | None], None]
"""Takes a trial's number, its parameters and its last result, which has no METRIC, or is None, where it failed."""


Identify = Callable[[Mapping[str, Any]], str]
"""Returns what is the same for parameters that lead to the same generator."""

Results = Mapping[str, tuple[int, Mapping[str, Any]]]
"""Number and last result of finished trials, by identity."""


class StudySearch(OptunaSearch):  # type: ignore[misc]  # ray has no types
    """Optuna in Ray Tune, numbering trials by the study and telling `on_end` before Optuna that a trial has ended.

    So when the driver dies between the two, the row is there and the trial is not run again. A trial that another one
    of the study was, or is, is not run: it ends with the other one's result, and `on_end` finds that one's number in
    it as REUSED_TRIAL.

    Args:
        config: Space and seed.
        storage: Optuna's storage.
        study_name: Optuna's study in it.
        taken: Numbers of the trials that are finished.
        num_trials: Trials to draw.
        identify: Tells trials that are the same.
        results: Of the trials that are finished.
        measure: Adds the objectives that Tune isn't told.
        budget: No trial is drawn once it's over, and one that it cut isn't ended: the study goes on with it.
        on_end: Writes the row.
        limit: Of the generators' size; a draw beyond it is no trial.
    """

    def __init__(
        self,
        config: Config,
        storage: BaseStorage,
        study_name: str,
        *,
        taken: Iterable[int],
        num_trials: int,
        identify: Identify,
        results: Results,
        measure: Measure,
        budget: TimeBudget,
        on_end: TrialEnd,
        limit: SizeLimit | None = None,
    ) -> None:
        self._taken = set(taken)
        self._config = config
        self._limit = limit
        self._num_left = num_trials
        self._identify = identify
        self._results = dict(results)
        self._running: dict[str, list[str]] = {}  # names of the trials that wait for one of their identity
        self._budget = budget
        num_drawn = len(open_study(storage, study_name, config).get_trials(deepcopy=False))
        self._measure = measure
        self._on_end = on_end
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
        """Asks Optuna, and numbers the trial: an interrupted one keeps its number.

        Returns:
            The parameters of a trial that has to be run, or Tune's word for there being none.
        """
        if trial_id in self._ot_trials:
            return self.identify(trial_id)[1]
        while self._num_left > 0 and not self._budget.is_over():
            parameters: dict[str, Any] = super().suggest(trial_id)
            if self._limit is not None and not self._limit.holds(configure(self._config, parameters).generator):
                self._draw_smaller(trial_id, self._limit)
                continue
            self._num_left -= 1
            number = self._give_number(trial_id)
            identity = self._identify(parameters)
            self._ot_trials[trial_id].set_user_attr(_GENERATOR, identity)
            if identity not in self._running and identity not in self._results:
                self._running[identity] = []
                return parameters
            name = f"{trial_id}-{number}"  # Tune goes on asking under its own
            self._ot_trials[name] = self._ot_trials.pop(trial_id)
            if identity in self._results:
                self._reuse(name, identity)
            else:
                self._running[identity].append(name)
        finished: str = Searcher.FINISHED
        return finished

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tells Optuna by matching epoch: Tune's iteration begins anew with every process."""
        super().on_trial_result(trial_id, {**result, TRAINING_ITERATION: result[TIME_ATTRIBUTE]})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends a trial, and those that are the same, in the study's records, then in Optuna."""
        if trial_id in self._completed_trials:
            return
        if self._budget.has_cut(trial_id):
            self._completed_trials.add(trial_id)
            return
        number, parameters = self.identify(trial_id)
        if result and METRIC in result:
            seconds = max(result.get(SECONDS, 0.0), result.get(WALL_SECONDS, 0.0))  # it may have gone on elsewhere
            result = dict(self._measure(parameters, {**result, SECONDS: seconds}))
        self._taken.add(number)  # also that of a failed trial, which has a row
        self._on_end(number, parameters, result)
        super().on_trial_complete(trial_id, None if error else result, error)
        identity = self._identify(parameters)
        if result and METRIC in result:
            self._results.setdefault(identity, (number, result))
        for name in self._running.pop(identity, []):
            if identity in self._results:
                self._reuse(name, identity)
            else:
                self.on_trial_complete(name, {FAILED_TRIAL: number}, error=True)

    def save(self, checkpoint_path: str) -> None:
        """Leaves nothing for Tune to save: the journal has it all."""

    def __getstate__(self) -> dict[str, Any]:
        """Leaves nothing for Tune to save."""
        return {}

    def identify(self, trial_id: str) -> tuple[int, dict[str, Any]]:
        """Returns the number and the parameters of one of Tune's trials."""
        trial = self._ot_trials[trial_id]
        return trial.user_attrs[_NUMBER], trial.params

    @property
    def num_ended(self) -> int:
        """Trials of the study that are finished, and those that ended in this run, failed ones among them."""
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
        """Tells Optuna that a generator is too large, and has the next draw begin with one that isn't."""
        trial = self._ot_trials.pop(trial_id)
        self._ot_study.tell(trial, state=TrialState.PRUNED)  # samplers that learn count it among the worst
        self._ot_study.enqueue_trial(random.Random(trial.number).choice(limit.choices()))

    def _reuse(self, name: str, identity: str) -> None:
        number, known = self._results[identity]
        kept = {key: known[key] for key in (METRIC, METRIC_STD, TIME_ATTRIBUTE, "diverged") if key in known}
        seconds = known.get(SECONDS, 0.0)
        self.on_trial_complete(name, {**kept, REUSED_TRIAL: number, REUSED_SECONDS: seconds, SECONDS: 0.0})


Finished = Mapping[int, tuple[Mapping[str, Any], Sequence[float] | None]]
"""Parameters and objectives, if there are any, of finished trials by number."""


def settle(
    storage: BaseStorage,
    study_name: str,
    config: Config,
    *,
    finished: Finished,
    failed: Mapping[int, Mapping[str, Any]],
) -> None:
    """Brings the journal in line with the rows, after a driver that died or trials that failed.

    Trials that were running, and failed ones, are queued again with their parameters and number, unless they
    finished after all; finished ones that the journal doesn't know are added.

    Args:
        storage: Optuna's storage.
        study_name: Optuna's study in it.
        config: Space of the search.
        finished: The trials that have a row.
        failed: Parameters of the trials that failed, by number.
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
