from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from dim_ray.errors import ConfigError
from dim_ray.pipeline.generators import generator_bytes
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.search_driver import FakeRecord
from tests.helpers.small import SEARCHED, make_work
from tuning.record import StudyRecord
from tuning.search.journal import open_journal
from tuning.search.optuna_search import METRIC, StudySearch
from tuning.search.space import decoded
from tuning.search.time_budget import TimeBudget
from tuning.search.variants import SizeLimit
from tuning.warm_start import WarmStart, check_warm_start, warm_start

PARAMETERS = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5}


def parameters(weight: float, **changes: Any) -> dict[str, Any]:
    return {**PARAMETERS, "matching.weight": weight, **changes}


def result(accuracy: float, epoch: int = 2) -> dict[str, Any]:
    return {METRIC: accuracy, "epoch": epoch, "time_total_s": 1.0}


def make_new(root: Path, *sources: str, **changes: Any) -> Workspace:
    work = make_work(root, study="new")
    study = replace(work.config.study, **{"name": "new", "warm_start": sources, "warm_start_trials": 2, **changes})
    return replace(work, config=replace(work.config, study=study))


def journal(work: Workspace) -> BaseStorage:
    return open_journal(Path(work.config.storage.root, "studies/new/optuna.journal"))


def start(work: Workspace, *, is_new: bool = True) -> WarmStart | None:
    return warm_start(journal(work), work.study, work.config, is_new=is_new)


def trials(work: Workspace, state: TrialState) -> list[FrozenTrial]:
    study = optuna.load_study(storage=journal(work), study_name=work.study)
    return study.get_trials(states=[state])


def queued(work: Workspace) -> list[dict[str, Any]]:
    study = work.config.study
    return [decoded(study, trial.system_attrs["fixed_params"]) for trial in trials(work, TrialState.WAITING)]


@pytest.fixture
def old(tmp_path: Path) -> StudyRecord:
    """A study of four trials on the same data."""
    record = StudyRecord(make_work(tmp_path, study="old"))
    record.write_trial(0, parameters(0.2), result(0.5))
    record.write_trial(1, parameters(0.3), result(0.8))
    record.write_trial(2, parameters(0.4), result(0.9, epoch=1))  # stopped
    record.write_trial(3, parameters(0.5), result(0.7))
    record.write_trial(4, parameters(0.6), None, error="killed")
    return record


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("source", ["old", "digits"], ids=["study", "data set"])
def test_best_configurations_are_tried_first_and_all_results_are_known(tmp_path: Path, source: str) -> None:
    work = make_new(tmp_path, source)
    assert start(work) == WarmStart(num_queued=2, num_known=4)
    assert queued(work) == [parameters(0.3), parameters(0.5)]  # completed ones first
    known = {trial.params["matching.weight"]: trial.value for trial in trials(work, TrialState.COMPLETE)}
    assert known == {0.2: 0.5, 0.3: 0.8, 0.5: 0.7}
    [stopped] = trials(work, TrialState.PRUNED)
    assert (stopped.params["matching.weight"], stopped.intermediate_values) == (0.4, {1: 0.9})


def test_with_several_objectives_the_pareto_set_comes_first_and_results_have_all_values(tmp_path: Path) -> None:
    record = StudyRecord(make_work(tmp_path, study="old"))
    for number, (accuracy, size_bytes) in enumerate([(0.9, 300), (0.8, 400), (0.5, 100)]):
        costs = {"generator_bytes": size_bytes, "alone_device_seconds": 1.0}
        record.write_trial(number, parameters(0.2 + 0.1 * number), result(accuracy) | costs)
    record.write_trial(3, parameters(0.5), result(0.95))  # as one of an older version: its costs aren't known
    work = make_new(tmp_path, "old", objectives=("accuracy", "generator_bytes"), scheduler="none")
    assert start(work) == WarmStart(num_queued=2, num_known=3)
    assert queued(work) == [parameters(0.2), parameters(0.2 + 0.1 * 2)]
    known = {trial.params["matching.weight"]: trial.values for trial in trials(work, TrialState.COMPLETE)}
    assert known == {0.2: [0.9, 300], 0.2 + 0.1: [0.8, 400], 0.2 + 0.1 * 2: [0.5, 100]}


@pytest.mark.usefixtures("old")
def test_trials_of_the_study_itself_are_numbered_as_ever_and_run(tmp_path: Path) -> None:
    work = make_new(tmp_path, "old")
    start(work)
    search = StudySearch(
        work.config,
        journal(work),
        "new",
        record=FakeRecord(),
        num_trials=3,
        time_budget=TimeBudget(work.config),
    )
    assert [search.suggest(name) for name in "ab"] == [parameters(0.3), parameters(0.5)]
    search.suggest("c")
    assert [search.lookup(name)[0] for name in "abc"] == [0, 1, 2]
    assert [search.drawn_by(name) for name in "abc"] == ["warm start", "warm start", "sampler"]


@pytest.mark.usefixtures("old")
def test_study_is_warmed_once_and_without_being_asked_not_at_all(tmp_path: Path) -> None:
    assert start(make_new(tmp_path)) is None
    work = make_new(tmp_path, "old")
    assert start(work) is not None
    assert start(work) is None
    assert len(queued(work)) == 2


@pytest.mark.usefixtures("old")
def test_study_that_lost_its_journal_does_not_try_them_again(tmp_path: Path) -> None:
    assert start(make_new(tmp_path, "old"), is_new=False) == WarmStart(num_queued=0, num_known=4)


@pytest.mark.usefixtures("old")
def test_results_are_known_where_the_final_evaluation_alone_differs(tmp_path: Path) -> None:
    work = make_new(tmp_path, "old")
    evaluation = replace(work.config.evaluation, num_seeds=9, images_per_class=(3,), protocols=("fixed",), seed=5)
    work = replace(work, config=replace(work.config, evaluation=evaluation))
    assert start(work) == WarmStart(num_queued=2, num_known=4)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("matching", {"epochs": 7}),
        ("data", {"dataset": "mnist"}),
        ("evaluation", {"epochs": 7}),
        ("evaluation", {"weights": "raw"}),
    ],
    ids=str,
)
def test_results_of_another_recipe_or_other_data_are_not_taken_for_ones_of_this_study(
    tmp_path: Path, section: str, change: dict[str, Any]
) -> None:
    work = make_new(tmp_path, "old")
    config = replace(work.config, **{section: replace(getattr(work.config, section), **change)})
    work = replace(work, config=config)
    assert start(work) == WarmStart(num_queued=2, num_known=0)
    assert queued(work) == [parameters(0.3), parameters(0.5)]


@pytest.mark.usefixtures("old")
def test_configurations_outside_of_the_space_are_left_out(tmp_path: Path) -> None:
    work = make_new(tmp_path, "old", space={**SEARCHED, "matching.weight": {"low": 0.1, "high": 0.45, "log": True}})
    assert start(work) == WarmStart(num_queued=2, num_known=3)
    assert queued(work) == [parameters(0.3), parameters(0.2)]


def test_sources_take_turns_since_their_accuracies_cannot_be_compared(old: StudyRecord, tmp_path: Path) -> None:
    other = StudyRecord(make_work(tmp_path, study="another"))
    other.write_trial(0, parameters(0.9), result(0.1))
    other.write_trial(1, parameters(0.8), result(0.2))
    work = make_new(tmp_path, "old", "another", warm_start_trials=3)
    start(work)
    assert [chosen["matching.weight"] for chosen in queued(work)] == [0.8, 0.3, 0.9]


@pytest.mark.usefixtures("old")
def test_name_that_is_no_source_is_refused_with_those_that_are(tmp_path: Path) -> None:
    work = make_new(tmp_path, "old", "digits")
    check_warm_start(work.config, work.dataset)
    work = make_new(tmp_path, "odl")
    with pytest.raises(ConfigError, match=r"study\.warm_start has 'odl'.*did you mean 'old'\? Known: digits, old\."):
        check_warm_start(work.config, work.dataset)


def test_storage_without_other_studies_is_refused_and_its_own_trials_are_no_source(tmp_path: Path) -> None:
    work = make_new(tmp_path, "digits")
    StudyRecord(work).write_trial(0, PARAMETERS, result(0.5))
    with pytest.raises(ConfigError, match="there are no trials of other studies"):
        check_warm_start(work.config, work.dataset)


SPACE = {
    **SEARCHED,
    "matching.kind": ["logits", "features"],
    "matching.temperature": {"low": 0.5, "high": 4.0, "when": {"matching.kind": ["logits"]}},
}


@pytest.mark.usefixtures("old")
def test_trials_of_a_study_that_did_not_search_a_field_have_its_one_value(tmp_path: Path) -> None:
    work = make_new(tmp_path, "old", space=SPACE)
    assert start(work) == WarmStart(num_queued=2, num_known=4)
    assert queued(work)[0] == parameters(0.3, **{"matching.kind": "logits", "matching.temperature": 1.0})
    assert {trial.params["matching.temperature"] for trial in trials(work, TrialState.COMPLETE)} == {1.0}


@pytest.mark.usefixtures("old")
def test_trials_whose_one_value_is_not_in_the_space_are_left_out(tmp_path: Path) -> None:
    work = make_new(tmp_path, "old", space={**SEARCHED, "matching.kind": ["features", "none"]})
    assert start(work) == WarmStart(num_queued=0, num_known=0)


def test_conditional_trials_are_taken_over_with_and_without_what_did_not_apply(tmp_path: Path) -> None:
    earlier = make_new(tmp_path, space=SPACE, name="old")
    record = StudyRecord(replace(earlier, study="old"))
    logits = parameters(0.3, **{"matching.kind": "logits", "matching.temperature": 2.0})
    features = parameters(0.2, **{"matching.kind": "features"})
    record.write_trial(0, logits, result(0.8))
    record.write_trial(1, features, result(0.7))
    work = make_new(tmp_path, "old", space=SPACE)
    assert start(work) == WarmStart(num_queued=2, num_known=2)
    assert queued(work) == [logits, features]
    known = [decoded(work.config.study, trial.params) for trial in trials(work, TrialState.COMPLETE)]
    assert known == [logits, features]


@pytest.mark.usefixtures("old")
def test_results_with_a_value_that_this_study_does_not_search_are_not_its_own(tmp_path: Path) -> None:
    record = StudyRecord(replace(make_new(tmp_path, space=SPACE, name="searched"), study="searched"))
    record.write_trial(0, parameters(0.3, **{"matching.kind": "features"}), result(0.8))
    work = make_new(tmp_path, "searched")
    assert start(work) == WarmStart(num_queued=1, num_known=0)
    assert queued(work) == [parameters(0.3)]


def test_generators_that_are_too_large_are_not_queued_before_smaller_ones(old: StudyRecord, tmp_path: Path) -> None:
    old.write_trial(5, parameters(0.7, **{"generator.capacity": 6}), result(0.6))
    work = make_new(tmp_path, "old")
    small = generator_bytes(replace(work.config.generator, capacity=6), work.dataset)
    limited = make_new(tmp_path, "old", max_generator_bytes=small)
    limit = SizeLimit(limited.config, limited.dataset)
    found = warm_start(journal(limited), limited.study, limited.config, is_new=True, limit=limit)
    assert found is not None
    assert [own["generator.capacity"] for own in queued(limited)] == [6]
