from __future__ import annotations

import statistics
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dim_ray.config import Protocol
from dim_ray.core.data.dataset import Dataset, Normalisation
from dim_ray.core.generator.networks import Generator
from dim_ray.core.students.student import StudentResult, finished
from dim_ray.pipeline import students
from dim_ray.pipeline.evaluations import load_generators, plan_evaluations
from dim_ray.pipeline.generators import generator_fingerprint, load_module
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan, group_students, train_group, validate
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import EVALUATION_TABLE
from tests.helpers.small import evaluate


def with_seeds(work: Workspace, *, selection_seeds: int, **evaluation: Any) -> Workspace:
    config = work.config
    study = replace(config.study, selection_seeds=selection_seeds)
    return replace(work, config=replace(config, study=study, evaluation=replace(config.evaluation, **evaluation)))


@pytest.fixture
def generator(built: Workspace) -> Generator:
    return load_module(built, generator_fingerprint(built))


class Students:
    """Trains students as always, keeps them, and says that they have the accuracies that it is given."""

    def __init__(self, accuracies: list[float] | None = None) -> None:
        self.plans: list[StudentPlan] = []
        self.results: list[StudentResult] = []
        self.options: list[dict[str, Any]] = []
        self._accuracies = accuracies

    def train(self, work: Workspace, plans: list[StudentPlan], generators: Any, **options: Any) -> list[StudentResult]:
        results = finished(train_group(work, plans, generators, **options))
        if self._accuracies:
            given = self._accuracies[len(self.results) :]
            results = [
                replace(result, validation_accuracy=accuracy) for result, accuracy in zip(results, given, strict=False)
            ]
        self.plans += plans
        self.results += results
        self.options.append(options)
        return results

    @property
    def seeds(self) -> list[int]:
        return [plan.seed for plan in self.plans]


def test_validation_is_the_mean_over_different_students(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Students([0.25, 0.75, 0.8])
    monkeypatch.setattr(students, "train_group", trained.train)
    found = validate(with_seeds(built, selection_seeds=3), generator)
    assert found == {"validation_accuracy": pytest.approx(0.6), "validation_std": pytest.approx(0.30414, abs=1e-5)}
    assert len(set(trained.seeds)) == 3
    assert len({result.final_loss for result in trained.results}) == 3


def test_students_that_choose_a_generator_are_none_of_those_that_are_reported(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Students()
    monkeypatch.setattr(students, "train_group", trained.train)
    for seed in (0, 1, 5):
        work = with_seeds(built, selection_seeds=2, seed=seed, num_seeds=4)
        validate(work, generator)
        rows = {plan.seed for plan in plan_evaluations(work, "f" * 16)}
        assert rows == set(range(seed, seed + 4))
        assert not rows & set(trained.seeds)
    assert len(set(trained.seeds)) == 6, "a seed of the evaluation chooses with students of its own"


def test_validation_is_the_same_again(built: Workspace, generator: Generator) -> None:
    work = with_seeds(built, selection_seeds=2)
    assert validate(work, generator) == validate(work, generator)


def test_validation_by_students_at_once_is_that_of_one_by_one(built: Workspace, generator: Generator) -> None:
    alone = validate(with_seeds(built, selection_seeds=3, students_at_once=1), generator)
    at_once = validate(with_seeds(built, selection_seeds=3, students_at_once=3), generator)
    assert at_once == pytest.approx(alone, abs=1.01 / len(built.dataset.validation))


def test_validation_is_on_the_fly_at_the_budget_of_selection_and_without_the_test_split(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Students()
    monkeypatch.setattr(students, "train_group", trained.train)
    validate(built, generator)
    [plan], [options] = trained.plans, trained.options
    config = built.config
    assert (plan.protocol, (plan.images_per_class,)) == ("on_the_fly", config.study.selection_images_per_class)
    assert plan.architecture == config.networks.students[0]
    assert options["test"] is False


def test_validation_is_the_mean_over_the_ipcs_of_the_selection(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(work: Workspace, plans: list[StudentPlan], generators: Any, **options: Any) -> list[Any]:
        return [SimpleNamespace(validation_accuracy=accuracies[plan.images_per_class].pop()) for plan in plans]

    accuracies = {1: [0.1, 0.2], 3: [0.6, 0.9]}
    monkeypatch.setattr(students, "train_group", train)
    study = replace(built.config.study, selection_images_per_class=(1, 3), selection_seeds=2)
    measured = validate(replace(built, config=replace(built.config, study=study)), generator)
    by_seed = [(0.2 + 0.9) / 2, (0.1 + 0.6) / 2]  # the mean of the IPCs is what seeds differ in
    assert measured == {
        "validation_accuracy": pytest.approx(statistics.fmean(by_seed)),
        "validation_std": pytest.approx(statistics.stdev(by_seed)),
    }
    assert accuracies == {1: [], 3: []}


def grouped(work: Workspace, plans: list[StudentPlan], **options: Any) -> list[list[StudentPlan]]:
    arguments = {"num_seeds": work.config.evaluation.num_seeds, "device_type": "cuda", **options}
    groups = group_students(work, plans, **arguments)
    assert sorted(map(repr, plans)) == sorted(repr(plan) for group in groups for plan in group)
    return groups


def test_seeds_of_a_cell_are_trained_at_once_where_that_pays(built: Workspace) -> None:
    work = with_seeds(built, selection_seeds=1, num_seeds=3, images_per_class=(1, 2))
    plans = plan_evaluations(work, generator_fingerprint(built))
    groups = grouped(work, plans)
    assert [len(group) for group in groups] == [3] * 8
    assert [plan for group in groups for plan in group] == plans, "dearest first, as they were planned"
    for group in groups:
        assert len({(plan.protocol, plan.images_per_class) for plan in group}) == 1
    slow = [replace(plan, architecture="resnet10") for plan in plans]
    assert {len(group) for group in grouped(work, slow, device_type="cpu")} == {1}


def test_more_students_at_once_are_of_several_protocols_but_of_one_length_and_recipe(built: Workspace) -> None:
    work = with_seeds(
        built,
        selection_seeds=1,
        num_seeds=2,
        images_per_class=(1, 2),
        protocols=("on_the_fly", "fixed", "real_fixed", "real_full"),
        quirks=("uniform_labels",),  # of students on the fly alone
        students_at_once=9,
    )
    sizes = {}
    for group in grouped(work, plan_evaluations(work, generator_fingerprint(built)), device_type="cpu"):
        sizes[frozenset(plan.protocol for plan in group), group[0].images_per_class] = len(group)
        assert len({(plan.recipe, plan.images_per_class) for plan in group}) == 1
    on_the_fly, sets = frozenset({"on_the_fly"}), frozenset({"fixed", "real_fixed"})
    real_full = {(frozenset({"real_full"}), 8): 2}
    assert sizes == real_full | {(on_the_fly, ipc): 2 for ipc in (1, 2)} | {(sets, ipc): 4 for ipc in (1, 2)}


def test_no_worker_waits_for_students_that_another_trains_at_once(built: Workspace) -> None:
    work = with_seeds(built, selection_seeds=1, num_seeds=5, images_per_class=(1,), protocols=("real_fixed",))
    plans = plan_evaluations(work, generator_fingerprint(built))
    assert [len(group) for group in grouped(work, plans, num_slots=2)] == [2, 2, 1]
    assert [len(group) for group in grouped(work, plans, num_slots=8)] == [1] * 5
    asked_for = with_seeds(work, selection_seeds=1, students_at_once=5)
    assert [len(group) for group in grouped(asked_for, plans, num_slots=8)] == [5]


def test_students_whose_rows_are_there_are_in_no_group(built: Workspace) -> None:
    work = with_seeds(built, selection_seeds=1, num_seeds=3, images_per_class=(1,), protocols=("real_fixed",))
    planned = plan_evaluations(work, generator_fingerprint(built))
    evaluate(work, planned[1])
    assert grouped(work, missing_rows(work, EVALUATION_TABLE, planned)) == [[planned[0], planned[2]]]


@pytest.mark.parametrize("protocol", ["on_the_fly", "real_on_the_fly", "fixed", "real_fixed", "real_full"])
def test_students_see_and_are_tested_on_images_of_their_own_normalisation(
    built: Workspace, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Normalisation] = []
    spreads: list[float] = []

    def watch(config: Any, streams: Any, dataset: Dataset, **options: Any) -> list[Any]:
        seen.append(dataset.normalisation)
        spreads.append(float(streams[0](0)[0].std()))
        return []

    monkeypatch.setattr(students, "train_students", watch)
    for kind in ("measured", "dim_signed"):
        work = with_seeds(built, selection_seeds=1, protocols=(protocol,), normalisation=kind)
        plans = plan_evaluations(work, generator_fingerprint(built))
        train_group(work, plans[:1], load_generators(work, plans[:1]), test=True)
        assert seen[-1] == built.dataset.normalised(kind).normalisation  # type: ignore[arg-type]
    assert spreads[1] == pytest.approx(2 * spreads[0], rel=1e-4)  # of the same images, with half the deviation
