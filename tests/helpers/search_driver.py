"""A study's search without Ray: what one process of it does, and the next after it died."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from dim_ray.config import Config
from dim_ray.store.files.copies import Copy
from dim_ray.store.files.filesystem import open_root
from tests.helpers.small import SEARCHED, make_config
from tests.store.conftest import object_store  # noqa: F401  # a fixture
from tuning.search.journal import open_journal
from tuning.search.objectives import values, worst_costs
from tuning.search.optuna_search import FAILED_TRIAL, METRIC, REUSED_TRIAL, StudySearch
from tuning.search.settling import Finished, settle
from tuning.search.space import decoded
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit

STUDY = "tiny"
KEY = "studies/tiny/optuna.journal"
PARAMETERS = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5}


class FakeRecord:
    """Rows of a study's trials, in memory."""

    def __init__(self, num_finished: int = 0) -> None:
        self.num_finished = num_finished

    def finished(self) -> dict[int, Any]:
        return dict.fromkeys(range(self.num_finished), Finished({}, None))

    def results(self) -> dict[str, Any]:
        return {}

    def generator_of(self, parameters: Mapping[str, Any]) -> str:
        return json.dumps(parameters, sort_keys=True)

    def measured(self, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        return dict(result)

    def write_trial(
        self, number: int, parameters: Mapping[str, Any], result: Mapping[str, Any] | None, drawn_by: str
    ) -> None:
        pass


class KilledError(BaseException):
    """Stands for a SIGKILL of the driver: nothing of ours or of Ray's catches it."""


@dataclass
class Driver(FakeRecord):
    """One process of a study, opened on the storage and dropped when it dies."""

    root: str
    rows: dict[int, Finished] = field(default_factory=dict)
    """Stands for the table of trials, which outlives the process."""
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed_with: dict[int, int | None] = field(default_factory=dict)
    """Which trial's failure a trial took over."""
    ended: list[int] = field(default_factory=list)
    drawn_by: dict[int, str] = field(default_factory=dict)
    reused: dict[int, int] = field(default_factory=dict)
    """Which trial's result a trial took over."""
    last_results: dict[int, dict[str, Any]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the section study."""
    now: float = 0.0
    """Reading of the clock."""

    def __post_init__(self) -> None:
        config = make_config(self.root)
        self.config: Config = replace(config, study=replace(config.study, **self.changes))
        root = open_root(self.root)
        self.folder = None if root.is_local else TemporaryDirectory()
        self.path = Path(root.path_of(KEY)) if self.folder is None else Path(self.folder.name, "journal")
        self.copy = None if root.is_local else Copy(self.path, root, f"{KEY}.gz")
        if self.copy is not None:
            self.copy.fetch()
        self.journal: BaseStorage = open_journal(self.path, is_lasting=root.is_local)
        self.settle()
        self.time_budget = TimeBudget(self.config, lambda: self.now)
        self.search = self.make_search(self.config)

    def make_search(self, config: Config, limit: SizeLimit | None = None) -> StudySearch:
        return StudySearch(
            config, self.journal, STUDY, record=self, num_trials=99, time_budget=self.time_budget, limit=limit
        )

    def finished(self) -> dict[int, Any]:
        return self.rows

    def results(self) -> dict[str, Any]:
        ran = [number for number in self.rows if number not in self.reused]
        return {self.generator_of(self.rows[number][0]): (number, self.last_results[number]) for number in ran}

    def measured(self, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Return a result with costs that follow from the parameters."""
        if "diverged" in result:
            return {**result, **worst_costs()}
        return {**result, "generator_bytes": 100 * parameters["generator.capacity"], "alone_device_seconds": 7.5}

    def settle(self) -> None:
        settle(self.journal, STUDY, self.config, finished=self.rows, failed=self.failed)

    def write_trial(
        self, number: int, parameters: Mapping[str, Any], result: Mapping[str, Any] | None, drawn_by: str
    ) -> None:
        self.ended.append(number)
        self.drawn_by[number] = drawn_by
        if result is None or METRIC not in result:
            self.failed_with[number] = (result or {}).get(FAILED_TRIAL)
            self.failed[number] = dict(parameters)
        else:
            self.failed.pop(number, None)
            is_stopped = result["epoch"] < self.config.matching.epochs and "diverged" not in result
            stopped_epoch = result["epoch"] if is_stopped else None
            self.rows[number] = Finished(dict(parameters), values(self.config.study, result), stopped_epoch, drawn_by)
            self.last_results[number] = dict(result)
            if REUSED_TRIAL in result:
                self.reused[number] = result[REUSED_TRIAL]

    def restarted(self, *, keeps_journal: bool = True) -> Driver:
        """Returns the next process, which finds the journal or, on an object store, its copy as of now; or neither."""
        if self.copy is not None and keeps_journal:
            self.copy.put()
        elif not keeps_journal:
            self.path.unlink()
        return replace(self, ended=[])

    def start(self, *names: str) -> list[int]:
        """Starts trials under Ray's names for them, and returns their numbers."""
        for name in names:
            self.search.suggest(name)
        return [self.search.lookup(name)[0] for name in names]

    def end(self, name: str, accuracy: float | None = 0.5, **more: Any) -> None:
        if accuracy is None:
            self.search.on_trial_complete(name, error=True)
        else:
            result = {METRIC: accuracy, "epoch": 2, "training_iteration": 1, "time_total_s": 5.0, **more}
            self.search.on_trial_complete(name, result)

    def trials(self) -> list[FrozenTrial]:
        return optuna.load_study(storage=self.journal, study_name=STUDY).get_trials()

    def queued(self) -> dict[int, dict[str, Any]]:
        return {
            trial.user_attrs["number"]: decoded(self.config.study, trial.system_attrs["fixed_params"])
            for trial in self.trials()
            if trial.state == TrialState.WAITING
        }

    def parameters(self, trial: FrozenTrial) -> dict[str, Any]:
        """Returns a trial's parameters as the configuration has them."""
        return decoded(self.config.study, trial.params)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials()]


SMALL = {"space": {"pool.size": [1, 2], "generator.capacity": [6]}}
"""A space of two trials."""

SAME = {"space": {"pool.size": [1], "generator.capacity": [6]}}
"""A space of one trial."""

SPACE = {
    **SEARCHED,
    "matching.kind": ["logits", "features"],
    "matching.temperature": {"low": 1.0, "high": 4.0, "when": {"matching.kind": ["logits"]}},
}
