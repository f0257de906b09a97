from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dim_ray.core.generator import Generator
from dim_ray.core.students import StudentResult
from dim_ray.pipeline import students
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_fingerprint, load_module
from dim_ray.pipeline.students import Evaluation, train_cell, validate
from dim_ray.pipeline.workspace import Workspace


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
        self.cells: list[Evaluation] = []
        self.results: list[StudentResult] = []
        self.options: list[dict[str, Any]] = []
        self._accuracies = accuracies

    def train(self, work: Workspace, cell: Evaluation, generator: Generator | None, **options: Any) -> StudentResult:
        result = train_cell(work, cell, generator, **options)
        if self._accuracies:
            result = replace(result, validation_accuracy=self._accuracies[len(self.results)])
        self.cells.append(cell)
        self.results.append(result)
        self.options.append(options)
        return result

    @property
    def seeds(self) -> list[int]:
        return [cell.seed for cell in self.cells]


def test_validation_is_the_mean_over_different_students(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Students([0.25, 0.75, 0.8])
    monkeypatch.setattr(students, "train_cell", trained.train)
    found = validate(with_seeds(built, selection_seeds=3), generator)
    assert found == {"validation_accuracy": pytest.approx(0.6)}
    assert len(set(trained.seeds)) == 3
    assert len({result.final_loss for result in trained.results}) == 3


def test_students_that_choose_a_generator_are_none_of_those_that_are_reported(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Students()
    monkeypatch.setattr(students, "train_cell", trained.train)
    for seed in (0, 1, 5):
        work = with_seeds(built, selection_seeds=2, seed=seed, num_seeds=4)
        validate(work, generator)
        rows = {cell.seed for cell in plan_evaluations(work, "f" * 16)}
        assert rows == set(range(seed, seed + 4))
        assert not rows & set(trained.seeds)
    assert len(set(trained.seeds)) == 6, "a seed of the evaluation chooses with students of its own"


def test_validation_is_the_same_again(built: Workspace, generator: Generator) -> None:
    work = with_seeds(built, selection_seeds=2)
    assert validate(work, generator) == validate(work, generator)


def test_validation_is_on_the_fly_at_the_budget_of_selection_and_without_the_test_split(
    built: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Students()
    monkeypatch.setattr(students, "train_cell", trained.train)
    validate(built, generator)
    [cell], [options] = trained.cells, trained.options
    config = built.config
    assert (cell.protocol, cell.images_per_class) == ("on_the_fly", config.study.selection_images_per_class)
    assert cell.architecture == config.networks.students[0]
    assert options["test"] is False
