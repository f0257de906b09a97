from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dim_ray.config import PRESET_QUIRKS, EvaluationConfig, NetworksConfig
from dim_ray.errors import ArtifactError, ConfigError, DivergedError
from dim_ray.pipeline import evaluations, students
from dim_ray.pipeline.evaluations import check_all_measured, evaluate_group, plan_evaluations
from dim_ray.pipeline.generators import GENERATOR_FILE, generator_fingerprint, load_module
from dim_ray.pipeline.rows import missing_rows, planned_id, read_planned
from dim_ray.pipeline.soft_labels import check_labels, labeller_name
from dim_ray.pipeline.students import StudentPlan, validate
from dim_ray.pipeline.teachers import teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import EVALUATION_TABLE, EVALUATIONS
from tests.helpers import tiny
from tests.helpers.small import distil, evaluate, make_work


def grid(work: Workspace) -> list[StudentPlan]:
    return plan_evaluations(work, generator_fingerprint(work))


def pick(work: Workspace, protocol: str, ipc: int = 2) -> StudentPlan:
    return next(plan for plan in grid(work) if (plan.protocol, plan.images_per_class) == (protocol, ipc))


def with_evaluation(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, evaluation=replace(work.config.evaluation, **changes)))


def row_files(work: Workspace) -> list[Path]:
    return sorted(Path(work.artifacts.root, "evaluations").rglob("*.parquet"))


def test_grid_has_every_protocol_ipc_architecture_and_seed_once(tmp_path: Path) -> None:
    work = make_work(tmp_path, networks=NetworksConfig(students=("convnet3_w8", "convnet3_w4")))
    work = with_evaluation(work, seed=5)
    plans = [(c.protocol, c.images_per_class, c.architecture, c.seed) for c in plan_evaluations(work, "f" * 16)]
    assert len(plans) == len(set(plans)) == 4 * 2 * 2 * 2
    assert {seed for *_, seed in plans} == {5, 6}


def test_dearest_students_are_planned_first(tmp_path: Path) -> None:
    ipcs = [plan.images_per_class for plan in grid(make_work(tmp_path))]
    assert ipcs == sorted(ipcs, reverse=True)


def test_baselines_on_real_images_belong_to_no_generator(tmp_path: Path) -> None:
    for plan in plan_evaluations(make_work(tmp_path), "f" * 16):
        assert plan.generator == (None if plan.protocol.startswith("real_") else "f" * 16)


def test_row_has_every_column_of_the_table(built: Workspace) -> None:
    evaluate(built, pick(built, "on_the_fly"))
    rows = read_planned(built, EVALUATION_TABLE, grid(built))
    assert list(rows.columns) == EVALUATIONS.names
    [row] = rows.to_dict("records")
    assert (row["study"], row["split"], row["selection"], row["preset"]) == ("tiny", "test", "validation", "corrected")
    assert row["generator"] == generator_fingerprint(built)
    assert row["data_fingerprint"] == built.dataset.digest
    assert row["num_threads"] == torch.get_num_threads()
    assert (row["device"], row["torch_version"]) == ("cpu", torch.__version__)
    assert row["wall_seconds"] > 0
    assert 0 <= row["accuracy"] <= row["best_test_accuracy"] <= 1
    absent = [name for name, value in row.items() if value is None or value != value]
    assert absent == ["labeller", "candidates", "latent_steps"], "which students without teachers don't have"


def test_budget_of_each_protocol_is_what_the_student_used(built: Workspace) -> None:
    # 3 classes of 8 training images of 64 bytes; IPC 2: epochs of 6 images, in 2 steps of 3; 2 epochs.
    generator_bytes = built.artifacts.read_card("generators", generator_fingerprint(built))["files"][GENERATOR_FILE][
        "size_bytes"
    ]
    expected = {
        "on_the_fly": (12, generator_bytes),
        "fixed": (6, 6 * 64),
        "real_on_the_fly": (12, 24 * 64),
        "real_fixed": (6, 6 * 64),
    }
    for protocol, (distinct_images, stored_bytes) in expected.items():
        row = evaluate(built, pick(built, protocol))
        assert (row["images_drawn"], row["optimiser_steps"], row["batch_size"], row["epochs"]) == (12, 4, 3, 2)
        assert (row["distinct_images"], row["stored_bytes"]) == (distinct_images, stored_bytes), protocol
        assert (row["generator"] is None) == protocol.startswith("real_")


def test_same_evaluation_writes_the_same_file_again(built: Workspace) -> None:
    plan = pick(built, "fixed")
    first = evaluate(built, plan)
    files = row_files(built)
    second = evaluate(built, plan)
    assert row_files(built) == files
    assert [file.stem for file in files] == [planned_id(built, EVALUATION_TABLE, plan)]
    timed = {"wall_seconds"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


@pytest.mark.parametrize("changes", [{}, {"labels": "soft"}, {"quirks": ("train_mode_test",)}])
def test_rows_of_students_at_once_are_those_of_one_by_one(built: Workspace, changes: dict[str, Any]) -> None:
    work = with_evaluation(built, students_at_once=9, **changes)
    plans = [plan for plan in grid(work) if plan.images_per_class == 2]
    assert len({plan.protocol for plan in plans}) == 4
    alone = [evaluate(work, plan) for plan in plans]
    files = row_files(work)
    at_once = evaluate_group(work, plans)
    assert row_files(work) == files
    assert len(read_planned(work, EVALUATION_TABLE, plans)) == len(plans) == 8
    one_image = 1.01 / len(built.dataset.test)
    rounded = {"final_loss": {"rel": 1e-4}} | {
        name: {"abs": one_image} for name in ("accuracy", "best_test_accuracy", "validation_accuracy")
    }
    for found, expected in zip(at_once, alone, strict=True):
        for name, tolerance in rounded.items():
            assert found[name] == pytest.approx(expected[name], **tolerance)
        apart = {*rounded, "wall_seconds"}
        assert {k: v for k, v in found.items() if k not in apart} == {
            k: v for k, v in expected.items() if k not in apart
        }
    assert len({row["wall_seconds"] for row in at_once}) == 1


def test_row_is_the_same_one_however_many_students_are_trained_at_once(built: Workspace) -> None:
    assert id_of(with_evaluation(built, students_at_once=4)) == id_of(built)
    rows = [evaluate(work, pick(work, "fixed")) for work in (built, with_evaluation(built, students_at_once=4))]
    assert rows[0]["recipe_json"] == rows[1]["recipe_json"]


def test_students_that_did_not_diverge_keep_their_rows(built: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_group(*args: Any, **options: Any) -> list[Any]:
        first, _, last = students.train_group(*args, **options)
        return [first, DivergedError("seed 1 diverged"), last]

    monkeypatch.setattr(evaluations, "train_group", train_group)
    work = with_evaluation(built, num_seeds=3)
    plans = [plan for plan in grid(work) if (plan.protocol, plan.images_per_class) == ("fixed", 2)]
    with pytest.raises(DivergedError, match="seed 1"):
        evaluate_group(work, plans)
    assert missing_rows(work, EVALUATION_TABLE, plans) == [plans[1]]


def test_students_that_diverged_are_all_named_with_what_to_do(built: Workspace) -> None:
    work = with_evaluation(built, protocols=("fixed", "real_fixed"), quirks=("extra_batch",))
    planned = grid(work)
    for plan in planned[2:-1]:
        evaluate(work, plan)
    with pytest.raises(DivergedError) as failure:
        check_all_measured(work, planned)
    text, student = str(failure.value), f"{tiny.ARCHITECTURE}, extra_batch"
    assert text.startswith("3 of 8 students diverged")
    assert f"(fixed, IPC 2, {student}, seed 0 and 1; real_fixed, IPC 1, {student}, seed 1)" in text
    assert "lower --evaluation.learning_rate, now 0.01, or leave these out with --protocol" in text
    assert built.artifacts.uri("generators", generator_fingerprint(work)) in text
    check_all_measured(work, planned[2:-1])


def test_rows_that_are_there_are_not_planned_again_in_any_study(built: Workspace) -> None:
    planned = grid(built)
    assert missing_rows(built, EVALUATION_TABLE, planned) == planned
    done = [pick(built, "on_the_fly"), pick(built, "real_fixed")]
    for plan in done:
        evaluate(built, plan)
    other_study = replace(built, study="another")
    assert missing_rows(other_study, EVALUATION_TABLE, planned) == [plan for plan in planned if plan not in done]
    assert len(read_planned(other_study, EVALUATION_TABLE, planned)) == 2


def test_baselines_are_shared_by_generators_and_their_rows_are_not(built: Workspace) -> None:
    ours, theirs = plan_evaluations(built, "a" * 16), plan_evaluations(built, "b" * 16)
    ids = [{planned_id(built, EVALUATION_TABLE, plan) for plan in plans} for plans in (ours, theirs)]
    shared = {planned_id(built, EVALUATION_TABLE, plan) for plan in ours if plan.generator is None}
    assert ids[0] & ids[1] == shared
    assert len(shared) == len(ours) / 2


def id_of(work: Workspace, protocol: str = "on_the_fly") -> str:
    return planned_id(work, EVALUATION_TABLE, pick(work, protocol))


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 3},
        {"learning_rate": 0.02},
        {"schedule": "cosine"},
        {"min_steps": 9},
        {"optimizer": "adam"},
        {"quirks": ("train_mode_test",)},
        {"preset": "reference"},
        {"labels": "soft"},
        {"labels": "soft", "soft_label_temperature": 4.0},
    ],
)
def test_row_is_another_one_for_another_recipe(built: Workspace, changes: dict[str, Any]) -> None:
    others = [id_of(with_evaluation(built, **change)) for change in (changes, {"labels": "soft"})]
    assert len({id_of(built), *others}) == (2 if changes == {"labels": "soft"} else 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"images_per_class": (2, 5)},
        {"num_seeds": 9},
        {"protocols": ("on_the_fly",)},
        {"soft_label_temperature": 4.0},  # which hard labels don't have
    ],
)
def test_row_is_the_same_one_in_a_larger_grid(built: Workspace, changes: dict[str, Any]) -> None:
    assert id_of(with_evaluation(built, **changes)) == id_of(built)


def test_row_is_the_same_one_under_a_quirk_that_does_not_concern_it(built: Workspace) -> None:
    quirky = with_evaluation(built, quirks=("uniform_labels",))
    assert id_of(quirky, "on_the_fly") != id_of(built, "on_the_fly")
    for protocol in ("fixed", "real_on_the_fly", "real_fixed"):
        assert id_of(quirky, protocol) == id_of(built, protocol)


def test_row_is_the_same_one_however_its_quirks_are_asked_for(built: Workspace) -> None:
    by_preset = with_evaluation(built, preset="reference")
    by_name = with_evaluation(built, quirks=PRESET_QUIRKS["reference"][::-1])
    assert id_of(by_preset) == id_of(by_name)


@pytest.mark.parametrize(
    ("changes", "preset", "quirks", "selection"),
    [
        ({}, "corrected", "none", "validation"),
        ({"quirks": ("train_mode_test", "extra_batch")}, "custom", "extra_batch+train_mode_test", "validation"),
        ({"quirks": ("best_of_tests",)}, "custom", "best_of_tests", "test"),
        (
            {"preset": "reference"},  # with less than its 1,000 epochs, so it isn't called by its name
            "custom",
            "best_of_tests+extra_batch+half_normalised_test+train_mode_test+uniform_labels",
            "test",
        ),
    ],
)
def test_row_says_which_quirks_it_has_and_whether_the_test_split_chose(
    built: Workspace, changes: dict[str, Any], preset: str, quirks: str, selection: str
) -> None:
    work = with_evaluation(built, **changes)
    row = evaluate(work, pick(work, "on_the_fly"))
    assert (row["preset"], row["quirks"], row["selection"]) == (preset, quirks, selection)
    [stored] = read_planned(work, EVALUATION_TABLE, grid(work)).to_dict("records")
    assert (stored["preset"], stored["quirks"]) == (preset, quirks)


def test_a_student_can_be_trained_again_from_its_row(built: Workspace) -> None:
    work = with_evaluation(
        built, optimizer="adamw", schedule="step", decay_points=(0.3, 0.6), labels="soft", quirks=("extra_batch",)
    )
    row = evaluate(work, pick(work, "on_the_fly"))
    assert (row["optimizer"], row["schedule"], row["learning_rate"]) == ("adamw", "step", 0.01)
    recipe = json.loads(row["recipe_json"])
    recipe |= {name: tuple(recipe[name]) for name in ("quirks", "decay_points")}
    again = pick(replace(work, config=replace(work.config, evaluation=EvaluationConfig(**recipe))), "on_the_fly", 10)
    again = replace(again, images_per_class=row["ipc"], seed=row["seed"])
    assert planned_id(work, EVALUATION_TABLE, again) == planned_id(work, EVALUATION_TABLE, pick(work, "on_the_fly"))
    assert evaluate(work, again)["final_loss"] == row["final_loss"]


def test_student_without_a_step_has_no_loss_and_says_so(built: Workspace) -> None:
    work = with_evaluation(built, quirks=("dropped_batches",), batch_size=128)
    row = evaluate(work, pick(work, "on_the_fly"))
    assert (row["optimiser_steps"], row["images_drawn"], row["distinct_images"], row["batch_size"]) == (0, 0, 0, 0)
    assert row["final_loss"] is None


# Soft labels


def soft(work: Workspace, **changes: Any) -> Workspace:
    return with_evaluation(work, labels="soft", **changes)


def test_teachers_choose_among_candidates_and_count_where_images_are_made_on_the_fly(built: Workspace) -> None:
    work = with_evaluation(built, candidates=3)
    plain, chosen = ({p: evaluate(w, pick(w, p)) for p in w.config.evaluation.protocols} for w in (built, work))
    assert {p: row["candidates"] for p, row in chosen.items()} == {
        "on_the_fly": 3,
        "fixed": 3,
        "real_on_the_fly": None,
        "real_fixed": None,
    }
    same = {
        p
        for p in chosen
        if planned_id(built, EVALUATION_TABLE, pick(built, p)) == planned_id(work, EVALUATION_TABLE, pick(work, p))
    }
    assert same == {"real_on_the_fly", "real_fixed"}
    assert chosen["on_the_fly"]["stored_bytes"] > plain["on_the_fly"]["stored_bytes"]
    assert chosen["fixed"]["stored_bytes"] == plain["fixed"]["stored_bytes"]
    assert chosen["fixed"]["labeller"] == labeller_name(
        built.artifacts.read_card("generators", generator_fingerprint(built))["teachers"]
    )


def test_teachers_match_the_latents_of_fixed_sets_only(built: Workspace) -> None:
    work = with_evaluation(built, latent_steps=2)
    plain, matched = ({p: evaluate(w, pick(w, p)) for p in w.config.evaluation.protocols} for w in (built, work))
    teachers = built.artifacts.read_card("generators", generator_fingerprint(built))["teachers"]
    for protocol, row in matched.items():
        is_fixed = protocol == "fixed"
        assert row["latent_steps"] == (2 if is_fixed else None)
        assert row["labeller"] == (labeller_name(teachers) if is_fixed else None)
        assert row["stored_bytes"] == plain[protocol]["stored_bytes"]
        assert (row["final_loss"] == plain[protocol]["final_loss"]) == (not is_fixed)
    chosen = with_evaluation(work, candidates=3)
    assert pick(chosen, "fixed").recipe == pick(work, "fixed").recipe, "candidates don't matter then"
    assert not with_evaluation(work, protocols=("on_the_fly",)).config.evaluation.asks_teachers


def test_every_student_of_a_generator_is_labelled_by_the_generators_teachers(built: Workspace) -> None:
    work = soft(built)
    teachers = built.artifacts.read_card("generators", generator_fingerprint(built))["teachers"]
    assert len(teachers) == 2
    assert all(sorted(plan.teachers) == sorted(teachers) for plan in grid(work))
    sizes = [
        built.artifacts.read_card("teachers", name)["files"]["snapshots.safetensors"]["size_bytes"] for name in teachers
    ]
    generator_bytes = built.artifacts.read_card("generators", generator_fingerprint(built))["files"][GENERATOR_FILE][
        "size_bytes"
    ]
    stored = {
        "on_the_fly": generator_bytes + sum(sizes),
        "fixed": 6 * (64 + 12),
        "real_on_the_fly": 24 * 64 + sum(sizes),
        "real_fixed": 6 * (64 + 12),
    }
    rows = {protocol: evaluate(work, pick(work, protocol)) for protocol in stored}
    assert {protocol: row["stored_bytes"] for protocol, row in rows.items()} == stored
    assert {row["labels"] for row in rows.values()} == {"soft"}
    assert {row["labeller"] for row in rows.values()} == {labeller_name(teachers)}
    assert {row["candidates"] for row in rows.values()} == {None}
    hard = evaluate(built, pick(built, "fixed"))
    assert hard["labeller"] is None
    assert hard["final_loss"] != rows["fixed"]["final_loss"]


def test_baselines_with_soft_labels_belong_to_their_teachers(built: Workspace) -> None:
    work = soft(built)
    plan = pick(work, "real_fixed")
    fewer = replace(plan, teachers=plan.teachers[:1])
    swapped = replace(plan, teachers=plan.teachers[::-1])
    assert planned_id(work, EVALUATION_TABLE, fewer) != planned_id(work, EVALUATION_TABLE, plan)
    assert planned_id(work, EVALUATION_TABLE, swapped) == planned_id(work, EVALUATION_TABLE, plan)
    assert evaluate(work, fewer)["final_loss"] != evaluate(work, plan)["final_loss"]


def test_generator_without_teachers_gives_no_soft_labels_and_says_what_to_do(built: Workspace) -> None:
    work = soft(replace(built, config=replace(built.config, matching=replace(built.config.matching, kind="none"))))
    distil(work)
    with pytest.raises(ConfigError, match=r"names no teachers.*--evaluation\.labels hard.*--matching\.kind logits"):
        grid(work)
    with pytest.raises(ConfigError, match=r"matching\.kind is 'none'.*--evaluation\.labels hard"):
        check_labels(work.config, work.dataset)
    check_labels(soft(built).config, built.dataset)
    check_labels(with_evaluation(work, labels="hard").config, work.dataset)


def test_teachers_that_stayed_behind_are_named(built: Workspace) -> None:
    shutil.rmtree(Path(built.artifacts.root, "teachers", teacher_fingerprint(built, 1)))
    with pytest.raises(ConfigError, match=rf"of the 2 teachers .* lacks {teacher_fingerprint(built, 1)}: copy"):
        grid(soft(built))


def test_selection_has_hard_labels_and_no_quirks(built: Workspace) -> None:
    generator = load_module(built, generator_fingerprint(built))
    quirky = soft(built, quirks=("dropped_batches", "train_mode_test"), batch_size=128)
    assert validate(quirky, generator) == validate(with_evaluation(built, batch_size=128), generator)


# All real images


def test_students_of_all_real_images_have_no_ipc_of_their_own(built: Workspace) -> None:
    work = with_evaluation(built, protocols=("on_the_fly", "real_full"), images_per_class=(1, 2))
    plans = grid(work)
    assert [(c.protocol, c.images_per_class) for c in plans[:2]] == [("real_full", 8)] * 2
    assert len(plans) == 2 + 2 * 2
    row = evaluate(work, plans[0])
    assert (row["ipc"], row["images_drawn"], row["distinct_images"], row["generator"]) == (8, 48, 24, None)


def test_row_is_another_one_for_other_data(built: Workspace) -> None:
    other = replace(built, dataset=replace(built.dataset, digest="1" * 16))
    plan = pick(built, "real_fixed")
    assert planned_id(other, EVALUATION_TABLE, plan) != planned_id(built, EVALUATION_TABLE, plan)


def test_pandas_reads_the_rows_by_itself(built: Workspace) -> None:
    for ipc in (1, 2):
        evaluate(built, pick(built, "real_fixed", ipc))
    rows = pd.read_parquet(Path(built.artifacts.root, "evaluations"))
    assert sorted(rows["ipc"].astype(int)) == [1, 2]
    assert set(rows["dataset"].astype(str)) == {"tiny"}


def test_evaluation_of_a_generator_that_is_not_there_says_which_there_are(built: Workspace) -> None:
    plan = replace(pick(built, "on_the_fly"), generator="f" * 16)
    with pytest.raises(ArtifactError, match=generator_fingerprint(built)):
        evaluate(built, plan)
    assert row_files(built) == []


def test_student_sees_only_what_its_protocol_allows(built: Workspace) -> None:
    """A student of generated images must not depend on the real training images."""
    train = built.dataset.train
    other = replace(
        built, dataset=replace(built.dataset, train=replace(train, images=255 - train.images, labels=train.labels))
    )
    on_the_fly = pick(built, "on_the_fly")
    assert evaluate(built, on_the_fly)["final_loss"] == evaluate(other, on_the_fly)["final_loss"]
    real = pick(built, "real_fixed")
    assert evaluate(built, real)["final_loss"] != evaluate(other, real)["final_loss"]
    assert on_the_fly.architecture == tiny.ARCHITECTURE
