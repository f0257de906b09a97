from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.errors import DivergedError
from dim_ray.pipeline import contenders
from dim_ray.pipeline.contenders import plan_validations, validate_group
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_fingerprint, load_module
from dim_ray.pipeline.rows import missing_rows, planned_id, read_planned
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.reader import Reader
from dim_ray.store.schema import VALIDATION_TABLE, VALIDATIONS

OTHER = "f" * 16


def with_sections(work: Workspace, *, evaluation: dict[str, Any] | None = None, **study: Any) -> Workspace:
    config = work.config
    return replace(
        work,
        config=replace(
            config,
            study=replace(config.study, **study),
            evaluation=replace(config.evaluation, **(evaluation or {})),
        ),
    )


def test_all_generators_get_the_same_seeds_and_none_that_was_used_before(
    built: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = with_sections(built, selection_seeds=2, contender_seeds=4)
    used: list[int] = []
    train = contenders.train_group
    monkeypatch.setattr(
        "dim_ray.pipeline.students.train_group",
        lambda work, plans, *rest, **options: (
            used.extend(plan.seed for plan in plans) or train(work, plans, *rest, **options)
        ),
    )
    own = generator_fingerprint(work)
    validate(work, load_module(work, own))
    assert len(used) == 2
    used += [plan.seed for plan in plan_evaluations(work, own)]
    planned = plan_validations(work, [own, OTHER])
    seeds = {name: [plan.seed for plan in planned if plan.generator == name] for name in (own, OTHER)}
    assert seeds[own] == seeds[OTHER]
    assert len(set(seeds[own])) == 4
    assert not set(seeds[own]) & set(used)


def test_more_seeds_add_to_those_that_were_there(built: Workspace) -> None:
    few = plan_validations(with_sections(built, contender_seeds=2), [OTHER])
    more = plan_validations(with_sections(built, contender_seeds=4), [OTHER])
    assert more[:2] == few


def test_row_has_every_column_and_no_word_of_the_test_split(built: Workspace, tmp_path: Path) -> None:
    own = generator_fingerprint(built)
    planned = plan_validations(built, [own])
    validate_group(built, planned[:1])
    rows = read_planned(built, VALIDATION_TABLE, planned)
    assert list(rows.columns) == VALIDATIONS.names
    [row] = rows.to_dict("records")
    assert (row["generator"], row["weights"], row["seed"]) == (own, planned[0].weights, planned[0].seed)
    assert (row["study"], row["ipc"], row["data_fingerprint"]) == ("tiny", 2, built.dataset.digest)
    assert json.loads(row["recipe_json"])["epochs"] == built.config.evaluation.epochs
    absent = [name for name, value in row.items() if value is None or value != value]
    assert absent == ["error"]
    assert Reader(built.artifacts.root).evaluations().empty, "where students of the test split are"


def test_accuracy_is_that_of_the_validation_split(built: Workspace) -> None:
    own = generator_fingerprint(built)
    work = with_sections(built, contender_seeds=2, scheduler="none")
    rows = validate_group(work, plan_validations(work, [own]))
    [first, *_] = plan_validations(work, [own])
    asked = with_sections(built, selection_seeds=2)  # the search's second student is the first of the contenders'
    one = with_sections(built, selection_seeds=1)
    both = 2 * validate(asked, load_module(built, own))["validation_accuracy"]
    assert rows[0]["seed"] == first.seed
    assert rows[0]["accuracy"] == pytest.approx(both - validate(one, load_module(built, own))["validation_accuracy"])


def test_only_what_has_no_row_is_missing(built: Workspace) -> None:
    planned = plan_validations(built, [generator_fingerprint(built)])
    assert missing_rows(built, VALIDATION_TABLE, planned) == planned
    validate_group(built, planned[1:3])
    assert missing_rows(built, VALIDATION_TABLE, planned) == [planned[0], *planned[3:]]


def test_same_student_writes_the_same_row_for_any_study(built: Workspace) -> None:
    planned = plan_validations(built, [generator_fingerprint(built)])[:1]
    [first] = validate_group(built, planned)
    another = replace(built, study="another")
    assert missing_rows(another, VALIDATION_TABLE, planned) == []
    [second] = validate_group(another, planned)
    assert second["accuracy"] == first["accuracy"]
    [file] = Path(built.artifacts.root, "validations").rglob("*.parquet")
    assert file.stem == planned_id(built, VALIDATION_TABLE, planned[0])


@pytest.mark.parametrize("changes", [{"epochs": 3}, {"seed": 7}])
def test_another_recipe_or_seed_is_another_row(built: Workspace, changes: dict[str, Any]) -> None:
    own = generator_fingerprint(built)
    ids = {
        planned_id(work, VALIDATION_TABLE, plan_validations(work, [own])[0])
        for work in (built, with_sections(built, evaluation=changes))
    }
    assert len(ids) == 2


def test_student_that_diverged_has_no_accuracy_and_says_why(built: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_validations(built, [generator_fingerprint(built)])[:2]
    train = contenders.train_group

    def diverging(*arguments: Any, **options: Any) -> list[Any]:
        return [*train(*arguments, **options)[:1], DivergedError("the loss is nan.")]

    monkeypatch.setattr(contenders, "train_group", diverging)
    good, bad = validate_group(built, planned)
    assert good["error"] is None
    assert (bad["accuracy"], bad["error"]) == (0.0, "the loss is nan.")
    assert missing_rows(built, VALIDATION_TABLE, planned) == [], "it isn't tried again"
