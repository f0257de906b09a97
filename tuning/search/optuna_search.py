"""The search as Ray Tune sees it: Optuna with a journal, by its public ask and tell."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from dim_ray.config import Config
from dim_ray.errors import StorageError
from dim_ray.pipeline.validation import WALL_SECONDS
from tuning.search.objectives import open_study, values
from tuning.search.points import make_points
from tuning.search.samplers import learns, make_sampler, num_start
from tuning.search.schedulers import METRIC, METRIC_STD, TIME_ATTRIBUTE
from tuning.search.settling import DRAWN_BY, NUMBER, PARAMETERS, SAMPLER, START
from tuning.search.space import configure, draw, encoded
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
]

SECONDS = "time_total_s"
"""Seconds of a trial in Tune's results: of its last process, until the trial has ended here."""
REUSED_TRIAL, REUSED_SECONDS = "reused_trial", "reused_seconds"
"""Number and seconds of the trial whose result was reused."""
FAILED_TRIAL = "failed_trial"
"""Number of the equal trial that failed."""
_GENERATOR = "generator"  # an attribute of Optuna's trials

log = logging.getLogger(__name__)

Result = Mapping[str, Any]


@dataclass(frozen=True)
class _Drawn:
    trial: optuna.Trial
    number: int
    parameters: dict[str, Any]
    drawn_by: str
    epochs: set[int] = field(default_factory=set)
    """Those whose accuracies Optuna knows: it warns of a second one."""

    def report(self, result: Result) -> None:
        """Tell Optuna the accuracy at an epoch: Tune's iteration starts again with every process."""
        epoch = result[TIME_ATTRIBUTE]
        if epoch not in self.epochs:
            self.epochs.add(epoch)
            self.trial.report(result[METRIC], epoch)


class StudySearch(Searcher):  # type: ignore[misc]  # ray has no types
    """Optuna in Ray Tune, with the study's own trial numbers, telling the record before Optuna that a trial ended.

    If the driver dies between the two, the row is there and the trial isn't run again. A trial with the same generator
    as another of the study isn't run: it ends with that one's result, which then has REUSED_TRIAL.

    The first trials, all until one has completed, and one after each that repeats another, spread over the space; the
    sampler draws the others. A trial that the scheduler stopped is pruned for Optuna, with its accuracies by epoch.

    When the time budget is over, no trial is drawn, and the trials that it cut stay unfinished. A draw beyond the size
    limit doesn't become a trial.

    Attributes:
        on_reused: Called with number and result of a trial that took over the outcome of an equal one.
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
    ) -> None:
        super().__init__()  # the objectives are our own matter
        self._config = config
        self._record = record
        self._taken = set(record.finished())
        self._results = dict(record.results())
        self._num_left = num_trials
        self._time_budget = time_budget
        self._limit = limit
        self.on_reused: Callable[[int, Result], None] = lambda number, result: None
        self._waiting: dict[str, list[str]] = {}  # by generator of a running trial, the names of equal ones
        self._drawn: dict[str, _Drawn] = {}  # by Tune's names
        self._ended: set[str] = set()
        self._has_repeated = False  # the sampler drew what there is
        self._points = make_points(config, limit)
        self._study = open_study(storage, study_name, config)
        self._study.sampler = make_sampler(config, len(self._study.get_trials(deepcopy=False)))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Ask Optuna for a trial and number it; an interrupted one keeps its number.

        Returns:
            Parameters of a trial to run, or Tune's word for the end.
        """
        if trial_id in self._drawn:
            return self.lookup(trial_id)[1]
        while self._num_left > 0 and not self._time_budget.is_over():
            drawn = self._draw()
            if drawn is None:
                continue
            self._num_left -= 1
            generator = self._record.generator_of(drawn.parameters)
            drawn.trial.set_user_attr(_GENERATOR, generator)
            if generator not in self._waiting and generator not in self._results:
                self._waiting[generator] = []
                self._drawn[trial_id] = drawn
                return drawn.parameters
            self._has_repeated = drawn.drawn_by == SAMPLER
            name = f"{trial_id}-{drawn.number}"  # Tune keeps asking under its own name
            self._drawn[name] = drawn
            if generator in self._results:
                self._reuse(name, generator)
            else:
                self._waiting[generator].append(name)
        finished: str = Searcher.FINISHED
        return finished

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna the accuracy at an epoch; of several objectives it takes none before the end."""
        if trial_id not in self._ended and len(self._config.study.objectives) == 1:
            self._drawn[trial_id].report(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """End a trial and its equals, first in the record, then in Optuna."""
        if trial_id in self._ended:
            return
        self._ended.add(trial_id)
        if self._time_budget.has_cut(trial_id):
            return
        drawn = self._drawn[trial_id]
        number, parameters = drawn.number, drawn.parameters
        if result and METRIC in result:
            seconds = max(
                result.get(SECONDS, 0.0), result.get(WALL_SECONDS, 0.0)
            )  # part of it may be of an earlier process
            result = dict(self._record.measured(parameters, {**result, SECONDS: seconds}))
        self._taken.add(number)  # a failed trial has a row, too
        self._record.write_trial(number, parameters, result, drawn_by=drawn.drawn_by)
        if result and result.keys() & {FAILED_TRIAL, REUSED_TRIAL}:
            self.on_reused(number, {**result, DRAWN_BY: drawn.drawn_by})
        try:
            self._tell(drawn, {} if error else result or {})
        except (ValueError, RuntimeError, StorageError) as problem:
            log.warning("Trial %d has its row, but Optuna's journal doesn't know that it ended: %s", number, problem)
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
        drawn = self._drawn[trial_id]
        return drawn.number, drawn.parameters

    def drawn_by(self, trial_id: str) -> str:
        """Return what drew one of Tune's trials: start, sampler, warm start or retry."""
        return self._drawn[trial_id].drawn_by

    @property
    def num_ended(self) -> int:
        """Trials of the study that are finished or ended in this run, failed ones included."""
        return len(self._taken)

    def _draw(self) -> _Drawn | None:
        """Return the next trial; None if its generator is too large, and the next draw is of one that isn't."""
        trials = self._study.get_trials(deepcopy=False)
        if not any(trial.state == TrialState.WAITING for trial in trials):
            self._queue_point(trials)
        trial = self._study.ask()
        parameters = draw(trial, self._config.study)
        if self._limit is not None:
            excess = self._limit.excess(configure(self._config, parameters).generator)
            if excess > 0:
                trial.set_constraint("generator_bytes", excess)  # samplers that learn avoid it
                self._study.tell(trial, state=TrialState.PRUNED)
                smaller = random.Random(trial.number).choice(self._limit.choices())
                self._study.enqueue_trial(encoded(self._config.study, smaller))
                return None
        drawn_by = trial.user_attrs.get(DRAWN_BY, SAMPLER)
        number = trial.user_attrs.get(NUMBER)
        if number is None:
            live = [t for t in trials if t.state != TrialState.FAIL]
            used = self._taken | {t.user_attrs.get(NUMBER) for t in live}
            number = next(number for number in itertools.count() if number not in used)
            trial.set_user_attr(NUMBER, number)
        trial.set_user_attr(DRAWN_BY, drawn_by)
        trial.set_user_attr(PARAMETERS, parameters)  # for dashboards
        return _Drawn(trial, number, parameters, drawn_by)

    def _queue_point(self, trials: Sequence[FrozenTrial]) -> None:
        """Queue the next point of the grid or sequence, if it's the next trial."""
        study = self._config.study
        if learns(study):
            by = [trial.user_attrs.get(DRAWN_BY) for trial in trials if trial.state != TrialState.FAIL]
            can_learn = any(trial.state == TrialState.COMPLETE for trial in trials)
            has_started = SAMPLER in by or len(by) >= num_start(study)
            has_repeated, self._has_repeated = self._has_repeated, False
            if can_learn and has_started and not has_repeated:
                return
        elif study.sampler == "random":
            return
        point = self._points.following(trials)
        if point is not None:
            drawn_by = START if learns(study) else SAMPLER
            self._study.enqueue_trial(encoded(study, point), user_attrs={DRAWN_BY: drawn_by})

    def _tell(self, drawn: _Drawn, result: Result) -> None:
        told = values(self._config.study, result)
        if told is None:
            self._study.tell(drawn.trial, state=TrialState.FAIL)
        elif result[TIME_ATTRIBUTE] < self._config.matching.epochs and "diverged" not in result:
            drawn.report(result)
            self._study.tell(drawn.trial, state=TrialState.PRUNED)
        else:
            self._study.tell(drawn.trial, told)

    def _reuse(self, name: str, generator: str) -> None:
        number, known = self._results[generator]
        kept = {key: known[key] for key in (METRIC, METRIC_STD, TIME_ATTRIBUTE, "diverged") if key in known}
        seconds = known.get(SECONDS, 0.0)
        self.on_trial_complete(name, {**kept, REUSED_TRIAL: number, REUSED_SECONDS: seconds, SECONDS: 0.0})
