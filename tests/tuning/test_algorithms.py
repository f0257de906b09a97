from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from dim_ray.config import Config
from dim_ray.errors import StorageError
from dim_ray.pipeline.generators import generator_bytes
from dim_ray.store.artifacts import ArtifactStore
from tests.core.tiny import make_dataset
from tests.disks import after, fill, small_disk
from tests.pipeline.small import make_config
from tests.store.conftest import object_store  # noqa: F401  # a fixture
from tuning import algorithms
from tuning.algorithms import METRIC, REUSED_TRIAL, StudySearch, open_journal, settle
from tuning.budget import TimeBudget
from tuning.objectives import values, worst_costs
from tuning.variants import SizeLimit

STUDY = "tiny"
KEY = "studies/tiny/optuna.journal"
PARAMETERS = {"pool_size": 2, "capacity": 8, "matching_weight": 0.25, "adversarial_weight": 1.5}


def identify(parameters: Mapping[str, Any]) -> str:
    """Stands for the generator's fingerprint."""
    return json.dumps(parameters, sort_keys=True)


class KilledError(BaseException):
    """Stands for a SIGKILL of the driver: nothing of ours or of Ray's catches it."""


@dataclass
class Driver:
    """What one process of a study has: opened on the storage, and dropped when it dies."""

    root: str
    rows: dict[int, tuple[dict[str, Any], tuple[float, ...] | None]] = field(default_factory=dict)
    """Stands for the table of trials, which outlives the process."""
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    reused: dict[int, int] = field(default_factory=dict)
    """Which trial's result a trial took over."""
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the section study."""
    now: float = 0.0
    """Reading of the clock."""

    def __post_init__(self) -> None:
        config = make_config(self.root)
        self.config: Config = replace(config, study=replace(config.study, **self.changes))
        self.journal: BaseStorage = open_journal(ArtifactStore(self.root), KEY)
        self.settle()
        self.budget = TimeBudget(self.config, lambda: self.now)
        self.search = self.make_search(self.config)

    def make_search(self, config: Config, limit: SizeLimit | None = None) -> StudySearch:
        ran = [number for number in self.rows if number not in self.reused]
        results = {identify(self.rows[number][0]): (number, self.results[number]) for number in ran}
        return StudySearch(
            config,
            self.journal,
            STUDY,
            taken=self.rows,
            num_trials=99,
            identify=identify,
            results=results,
            measure=self.measure,
            budget=self.budget,
            on_end=self.write,
            limit=limit,
        )

    def measure(self, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Stands for the generator's card: what it costs follows from its parameters."""
        if "diverged" in result:
            return {**result, **worst_costs()}
        return {**result, "generator_bytes": 100 * parameters["capacity"], "alone_device_seconds": 7.5}

    def settle(self) -> None:
        settle(self.journal, STUDY, self.config, finished=self.rows, failed=self.failed)

    def write(self, number: int, parameters: Mapping[str, Any], result: Mapping[str, Any] | None) -> None:
        self.ended.append(number)
        if result is None:
            self.failed[number] = dict(parameters)
        else:
            self.failed.pop(number, None)
            self.rows[number] = (dict(parameters), values(self.config.study, result))
            self.results[number] = dict(result)
            if REUSED_TRIAL in result:
                self.reused[number] = result[REUSED_TRIAL]

    def restarted(self) -> Driver:
        return replace(self, ended=[])

    def start(self, *names: str) -> list[int]:
        """Starts trials under Ray's names for them, and returns their numbers."""
        for name in names:
            self.search.suggest(name)
        return [self.search.identify(name)[0] for name in names]

    def end(self, name: str, accuracy: float | None = 0.5, **more: Any) -> None:
        if accuracy is None:
            self.search.on_trial_complete(name, error=True)
        else:
            result = {METRIC: accuracy, "epoch": 2, "training_iteration": 1, "time_total_s": 5.0, **more}
            self.search.on_trial_complete(name, result)

    def trials(self) -> list[FrozenTrial]:
        study = optuna.load_study(storage=open_journal(ArtifactStore(self.root), KEY), study_name=STUDY)
        return study.get_trials()

    def queued(self) -> dict[int, dict[str, Any]]:
        return {
            trial.user_attrs["number"]: trial.system_attrs["fixed_params"]
            for trial in self.trials()
            if trial.state == TrialState.WAITING
        }

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials()]


@pytest.fixture(params=["folder", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    return str(request.getfixturevalue("object_store"))


@pytest.fixture
def driver(root: str) -> Driver:
    return Driver(root)


def test_new_trials_are_numbered_from_zero_without_gaps(driver: Driver) -> None:
    assert driver.start("a", "b") == [0, 1]
    driver.end("b")
    assert driver.start("c", "d") == [2, 3]


def test_suggestion_is_what_optuna_remembers(driver: Driver) -> None:
    suggested = driver.search.suggest("a")
    assert suggested is not None
    assert set(suggested) == set(PARAMETERS)
    assert driver.search.identify("a") == (0, suggested)
    [trial] = driver.trials()
    assert (trial.state, trial.params, trial.user_attrs["number"]) == (TrialState.RUNNING, suggested, 0)


def test_asking_again_for_a_trial_gives_the_same_one(driver: Driver) -> None:
    assert driver.search.suggest("a") == driver.search.suggest("a")
    assert len(driver.trials()) == 1


def test_ended_trial_is_told_to_the_record_and_to_optuna_once(driver: Driver) -> None:
    driver.start("a")
    driver.end("a", 0.75)
    driver.end("a", 0.25)
    assert driver.ended == [0]
    [trial] = driver.trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)


def test_failed_trial_is_told_to_the_record_without_a_result(driver: Driver) -> None:
    driver.start("a")
    driver.end("a", None)
    assert (driver.rows, list(driver.failed)) == ({}, [0])
    assert driver.states() == ["FAIL"]


def test_number_of_a_failed_trial_is_not_given_to_another_one_in_the_same_run(driver: Driver) -> None:
    """Its row, with the reason, would be gone."""
    driver.start("a")
    driver.end("a", None)
    assert driver.start("b") == [1]


def test_finished_trials_of_earlier_runs_keep_their_numbers(driver: Driver) -> None:
    driver.start("a", "b")
    driver.end("a")
    driver.end("b")
    again = driver.restarted()
    assert again.start("c") == [2]
    assert again.queued() == {}


def test_journal_waits_for_a_full_disk_and_keeps_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        driver = Driver(str(disk))
        driver.start("a")
        journal = disk / KEY
        lines = journal.read_bytes().rstrip(b"\n")
        # A few bytes still fit into the file's last page, and so a part of the next line.
        journal.write_bytes(lines + b" " * (-len(lines) % 4096 - 20) + b"\n")
        before = journal.read_bytes()
        free = fill(disk)
        monkeypatch.setattr(algorithms, "PAUSES_SECONDS", ())
        with pytest.raises(StorageError, match="the disk is full"):
            driver.restarted()
        assert journal.read_bytes() == before
        monkeypatch.setattr(algorithms, "PAUSES_SECONDS", (0.05,) * 100)
        with after(0.5, free):
            again = driver.restarted()
        assert list(again.queued()) == [0]


def test_sampler_learns_from_earlier_runs(driver: Driver) -> None:
    driver.start("a")
    driver.end("a", 0.9)
    study = driver.restarted().search._ot_study
    assert study.best_value == 0.9
    assert study.best_params == driver.rows[0][0]


def test_resumed_study_does_not_draw_again_what_it_drew_before(driver: Driver) -> None:
    drawn = [driver.search.suggest("a"), driver.search.suggest("b")]  # killed with none of them finished
    again = driver.restarted()
    assert [again.search.suggest("c"), again.search.suggest("d")] == drawn  # queued
    assert again.search.suggest("e") not in drawn


def test_two_new_studies_of_the_same_seed_draw_the_same_and_of_another_seed_others(tmp_path: Path) -> None:
    first, second = Driver(str(tmp_path / "1")), Driver(str(tmp_path / "2"))
    assert first.search.suggest("a") == second.search.suggest("b")
    third = Driver(str(tmp_path / "3"))
    config = replace(third.config, study=replace(third.config.study, seed=1))
    other = third.make_search(config)
    assert other.suggest("c") != first.search.identify("a")[1]


def test_sampler_has_a_seed_of_its_own_for_every_study_seed_and_number_of_drawn_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    class Recording(optuna.samplers.TPESampler):
        def __init__(self, *, seed: int | None = None, **options: Any) -> None:
            if seed is not None:  # a study that is merely opened has a sampler, too
                given.append(seed)
            super().__init__(seed=seed, **options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", Recording)
    seeds = [0, 1, 2, 5_000_000_000, 5_000_000_000 % 2**32]
    for study_seed in seeds:
        journal = open_journal(ArtifactStore(str(tmp_path / str(study_seed))), KEY)
        config = make_config(tmp_path)
        config = replace(config, study=replace(config.study, seed=study_seed))
        for num_drawn in range(3):
            search = StudySearch(
                config,
                journal,
                STUDY,
                taken=(),
                num_trials=1,
                identify=identify,
                results={},
                measure=lambda parameters, result: result,
                budget=TimeBudget(config),
                on_end=lambda *ending: None,
            )
            assert search.suggest(f"trial {num_drawn}") is not None
    assert len(set(given)) == len(given) == 3 * len(seeds)
    assert all(0 <= seed < 2**32 for seed in given)


def test_trial_that_ran_when_the_driver_died_is_queued_with_its_number_and_parameters(driver: Driver) -> None:
    driver.start("a", "b", "c")
    driver.end("b")
    parameters = {number: driver.search.identify(name)[1] for number, name in ((0, "a"), (2, "c"))}
    again = driver.restarted()
    assert again.queued() == parameters
    assert again.start("d", "e", "f") == [0, 2, 3]
    assert [again.search.identify(name)[1] for name in ("d", "e")] == [parameters[0], parameters[2]]


def test_interrupted_trials_are_queued_once_however_often_the_study_is_opened(driver: Driver) -> None:
    driver.start("a")
    for _ in range(3):
        driver = driver.restarted()
        assert list(driver.queued()) == [0]
    driver.settle()
    assert driver.states() == ["FAIL", "WAITING"]


def test_optunas_trial_has_its_generator_and_its_accuracies_by_epoch(driver: Driver) -> None:
    driver.start("a")
    for epoch, accuracy in ((1, 0.25), (3, 0.5)):
        # Tune's own counter begins anew in a resumed process
        driver.search.on_trial_result("a", {METRIC: accuracy, "epoch": epoch, "training_iteration": 1})
    [trial] = driver.trials()
    assert trial.user_attrs == {"number": 0, "generator": identify(trial.params)}
    assert trial.intermediate_values == {1: 0.25, 3: 0.5}


def test_trial_interrupted_twice_keeps_its_number_and_parameters(driver: Driver) -> None:
    drawn = driver.search.suggest("a")
    driver = driver.restarted()
    driver.start("b")
    driver = driver.restarted()
    driver.start("c")
    assert driver.search.identify("c") == (0, drawn)


@pytest.mark.parametrize("error", [KilledError(), ValueError("a broken journal")], ids=["killed", "broken"])
def test_trial_whose_row_was_written_before_the_driver_died_is_not_run_again(
    driver: Driver, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    driver.start("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", fail)
        with contextlib.suppress(KilledError):
            driver.end("a", 0.75)
    assert driver.states() == ["RUNNING", "RUNNING"]
    again = driver.restarted()
    assert list(again.queued()) == [1]
    assert [(t.state.name, t.value) for t in again.trials()] == [
        ("COMPLETE", 0.75), ("FAIL", None), ("WAITING", None)
    ]  # fmt: skip
    assert again.start("c", "d") == [1, 2]


def test_row_is_written_before_optuna_is_told(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    monkeypatch.setattr(driver.search, "_on_end", lambda *ending: states.extend(driver.states()))
    driver.start("a")
    driver.end("a")
    assert states == ["RUNNING"]
    assert driver.states() == ["COMPLETE"]


def test_row_that_cannot_be_written_leaves_the_trial_unfinished(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*ending: object) -> None:
        raise StorageError("the disk is full")

    driver.start("a")
    monkeypatch.setattr(driver.search, "_on_end", fail)
    with pytest.raises(StorageError):
        driver.end("a")
    assert driver.states() == ["RUNNING"]
    assert list(driver.restarted().queued()) == [0]


def test_failed_trials_are_queued_once_with_their_numbers(root: str) -> None:
    driver = Driver(root, failed={3: PARAMETERS})
    driver.settle()
    driver = driver.restarted()
    assert driver.queued() == {3: PARAMETERS}
    assert driver.start("a", "b") == [3, 0]
    driver.end("a", 0.5)
    assert driver.restarted().queued() == {0: driver.search.identify("b")[1]}


def test_finished_trials_that_the_journal_lost_are_added(root: str) -> None:
    rows: dict[int, Any] = {0: (PARAMETERS, (0.5,)), 1: ({**PARAMETERS, "capacity": 6}, (0.7,)), 2: (PARAMETERS, None)}
    driver = Driver(root, rows=rows, results={number: {} for number in rows})
    driver.settle()
    values = {t.user_attrs["number"]: (t.value, t.params) for t in driver.trials()}
    assert values == {0: (0.5, PARAMETERS), 1: (0.7, {**PARAMETERS, "capacity": 6})}
    assert driver.start("a") == [3]


def test_trial_that_died_before_it_had_a_number_is_forgotten(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", die)
        with pytest.raises(KilledError):
            driver.search.suggest("a")
    again = driver.restarted()
    assert again.queued() == {}
    assert again.start("b", "c") == [0, 1]


def test_nothing_is_left_for_ray_to_pickle(driver: Driver, tmp_path: Path) -> None:
    driver.search.save(str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()
    assert driver.search.__getstate__() == {}


def test_journal_is_one_file_of_the_study(driver: Driver) -> None:
    driver.start("a")
    data = ArtifactStore(driver.root).read_bytes(KEY)
    assert data is not None
    assert data.endswith(b"\n")


def test_log_that_could_not_be_stored_is_not_remembered_either(
    object_store: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(object_store)
    artifacts = ArtifactStore(object_store)
    storage: Any = open_journal(artifacts, KEY)
    backend = storage._backend
    before = list(backend.read_logs(0))

    def fail(key: str, data: bytes) -> str:
        raise StorageError("no space left")

    monkeypatch.setattr(artifacts, "write_bytes", fail)
    with pytest.raises(StorageError):
        backend.append_logs([{"op_code": 0}])
    assert list(backend.read_logs(0)) == before
    assert driver.trials() == []


def test_object_store_and_file_hold_the_same_journal(tmp_path: Path, object_store: str) -> None:  # noqa: F811
    drivers = [Driver(str(tmp_path)), Driver(object_store)]
    for driver in drivers:
        driver.start("a", "b")
        driver.end("b", 0.25)

    def remembered(driver: Driver) -> list[tuple[Any, ...]]:
        return [(t.state, t.params, t.value, t.user_attrs) for t in driver.trials()]

    assert remembered(drivers[0]) == remembered(drivers[1])


SMALL = {"pool_sizes": (1, 2), "capacities": (6,), "matching_weights": (0.5, 0.5), "adversarial_weights": (1.0, 1.0)}
"""A space of two trials."""


@pytest.fixture
def small(root: str) -> Driver:
    return Driver(root, changes=SMALL)


def test_trial_that_was_run_is_not_run_again_and_has_the_result_of_the_first(root: str) -> None:
    driver = Driver(root, changes={**SMALL, "pool_sizes": (1,)})
    driver.start("a")
    driver.end("a", 0.75)
    driver.search._num_left = 2
    assert driver.search.suggest("b") == Searcher.FINISHED
    assert driver.ended == [0, 1, 2]
    assert driver.reused == {1: 0, 2: 0}
    assert driver.results[1] == {
        METRIC: 0.75, "epoch": 2, "reused_trial": 0, "reused_seconds": 5.0, "time_total_s": 0.0,
        "generator_bytes": 600, "alone_device_seconds": 7.5,
    }  # fmt: skip
    assert [(trial.state.name, trial.value) for trial in driver.trials()] == [("COMPLETE", 0.75)] * 3


def test_trial_that_was_run_in_an_earlier_process_is_not_run_again(root: str) -> None:
    driver = Driver(root, changes={**SMALL, "pool_sizes": (1,)})
    driver.start("a")
    driver.end("a", 0.0, epoch=1, diverged="the loss is nan")
    again = driver.restarted()
    again.search._num_left = 1
    assert again.search.suggest("b") == Searcher.FINISHED
    assert (again.results[1]["diverged"], again.results[1]["epoch"], again.reused) == ("the loss is nan", 1, {1: 0})


def test_trial_that_runs_is_waited_for_by_the_same_ones(small: Driver) -> None:
    first, second = small.search.suggest("a"), small.search.suggest("b")
    assert first != second
    small.search._num_left = 3
    assert small.search.suggest("c") == Searcher.FINISHED
    assert small.ended == []
    small.end("a", 0.25)
    small.end("b", 0.5)
    assert sorted(small.ended) == [0, 1, 2, 3, 4]
    assert set(small.reused) == {2, 3, 4}
    for number, source in small.reused.items():
        assert small.rows[number] == small.rows[source]


def test_trials_that_waited_for_one_that_failed_fail_with_it_and_run_another_time(root: str) -> None:
    driver = Driver(root, changes={**SMALL, "pool_sizes": (1,)})
    driver.start("a")
    driver.search._num_left = 1
    driver.search.suggest("b")
    driver.end("a", None)
    assert sorted(driver.failed) == [0, 1]
    assert driver.rows == {}
    again = driver.restarted()
    assert again.start("c") == [0]
    again.search._num_left = 1
    again.search.suggest("d")
    again.end("c", 0.5)
    assert (again.failed, again.reused) == ({}, {1: 0})


def test_search_ends_with_its_number_of_trials(driver: Driver) -> None:
    driver.search._num_left = 2
    driver.start("a", "b")
    assert driver.search.suggest("c") == Searcher.FINISHED
    assert len(driver.trials()) == 2


def test_no_trial_begins_once_the_time_is_over(root: str) -> None:
    driver = Driver(root, changes={"time_budget": "30s"})
    driver.start("a")
    driver.now = 29.9
    assert driver.start("b") == [1]
    driver.now = 30.0
    assert driver.search.suggest("c") == Searcher.FINISHED
    assert len(driver.trials()) == 2


def test_trial_that_the_time_cut_has_no_row_and_goes_on_with_the_study(root: str) -> None:
    driver = Driver(root, changes={"time_budget": "30s"})
    driver.start("a", "b")
    parameters = driver.search.identify("a")[1]
    driver.now = 31.0
    assert driver.budget("a", {"epoch": 1})
    driver.end("a", 0.4, epoch=1)
    assert not driver.budget("b", {"epoch": 2})  # its last: it's complete
    driver.end("b", 0.6)
    assert driver.ended == [1]
    assert driver.states() == ["RUNNING", "COMPLETE"]
    again = replace(driver.restarted(), now=0.0)
    assert again.queued() == {0: parameters}
    assert again.start("c") == [0]


def test_budget_begins_anew_with_every_command_and_none_is_never_over(tmp_path: Path) -> None:
    now = 1000.0
    config = make_config(tmp_path)
    assert not TimeBudget(config, lambda: now * 1e6).is_over()
    budget = TimeBudget(replace(config, study=replace(config.study, time_budget="1m")), lambda: now)
    now += 59.0
    assert not budget("a", {"epoch": 1})
    assert not budget.is_over()
    now += 1.0
    assert budget.is_over()
    assert budget("a", {"epoch": 1})
    assert not budget.stop_all()


SPACE = {
    "matching.kind": ["logits", "features"],
    "matching.temperature": {"low": 1.0, "high": 4.0, "when": {"matching.kind": ["logits"]}},
}


def test_conditional_trials_that_ran_when_the_driver_died_are_queued_as_they_were(root: str) -> None:
    driver = Driver(root, changes={"space": SPACE})
    names = "abcdefgh"
    driver.start(*names)
    parameters = {driver.search.identify(name)[0]: driver.search.identify(name)[1] for name in names}
    assert {"matching.temperature" in own for own in parameters.values()} == {True, False}
    driver.end("a")
    again = driver.restarted()
    assert again.queued() == {number: own for number, own in parameters.items() if number > 0}
    again.start("x", "y")
    assert [again.search.identify(name)[1] for name in "xy"] == [parameters[1], parameters[2]]


def test_conditional_trials_are_known_again_where_the_journal_is_lost(root: str) -> None:
    driver = Driver(root, changes={"space": SPACE})
    for name in "abcdefgh":
        driver.start(name)
        driver.end(name)
    ArtifactStore(root).delete(KEY)
    again = driver.restarted()
    assert [trial.params for trial in again.trials()] == [driver.rows[number][0] for number in range(8)]


def test_trial_that_died_before_it_was_drawn_as_a_whole_is_not_run(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = optuna.Trial.suggest_float

    def die(trial: optuna.Trial, name: str, *bounds: float, **options: Any) -> float:
        if name == "matching.temperature":
            raise KilledError
        return draw(trial, name, *bounds, **options)

    driver = Driver(root, changes={"space": {**SPACE, "matching.kind": ["logits"]}})
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "suggest_float", die)
        with pytest.raises(KilledError):
            driver.search.suggest("a")
    assert "matching.kind" in driver.trials()[0].params
    again = driver.restarted()
    assert again.queued() == {}
    assert again.start("b") == [0]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "qmc", "random"])
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "generator_bytes")])
def test_generator_that_is_too_large_is_never_a_trial(
    tmp_path: Path, sampler: str, objectives: tuple[str, ...]
) -> None:
    space = {"generator.refinements": [[1], [4]]}
    changes = {"sampler": sampler, "space": space, "objectives": objectives, "scheduler": "none"}
    driver = Driver(str(tmp_path), changes=changes)
    dataset = make_dataset()
    generator = replace(driver.config.generator, capacity=6, refinements=(4,))
    largest = generator_bytes(generator, dataset)
    config = replace(driver.config, study=replace(driver.config.study, max_generator_bytes=largest - 1))
    limit = SizeLimit(config, dataset)
    driver.search = driver.make_search(config, limit)
    allowed = [(choice["capacity"], choice["generator.refinements"]) for choice in limit.choices()]
    assert 0 < len(allowed) < 4
    for name in map(str, range(20)):
        driver.start(name)
        driver.end(name, 0.04 * int(name))
    drawn = {(own["capacity"], own["generator.refinements"]) for own, _ in driver.rows.values()}
    assert drawn <= set(allowed)
    assert sorted(driver.rows) == list(range(len(driver.rows)))  # the draws that were refused have no number
    assert "PRUNED" in driver.states()
    assert driver.states().count("COMPLETE") == len(driver.rows) >= 20
    driver = driver.restarted()
    assert driver.queued() == {}
