from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dim_ray.config import NetworksConfig
from dim_ray.errors import ArtifactError
from dim_ray.pipeline.evaluations import (
    evaluate,
    evaluation_row_id,
    missing_evaluations,
    plan_evaluations,
    read_evaluations,
)
from dim_ray.pipeline.generators import GENERATOR_FILE, generator_fingerprint
from dim_ray.pipeline.students import Evaluation
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import EVALUATIONS
from tests.core import tiny
from tests.pipeline.small import make_work


def plan(work: Workspace) -> list[Evaluation]:
    return plan_evaluations(work, generator_fingerprint(work))


def pick(work: Workspace, protocol: str, ipc: int = 2) -> Evaluation:
    return next(cell for cell in plan(work) if (cell.protocol, cell.images_per_class) == (protocol, ipc))


def with_evaluation(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, evaluation=replace(work.config.evaluation, **changes)))


def row_files(work: Workspace) -> list[Path]:
    return sorted(Path(work.artifacts.root, "evaluations").rglob("*.parquet"))


def test_grid_has_every_protocol_ipc_architecture_and_seed_once(tmp_path: Path) -> None:
    work = make_work(tmp_path, networks=NetworksConfig(students=("convnet3_w8", "convnet3_w4")))
    work = with_evaluation(work, seed=5)
    cells = [(c.protocol, c.images_per_class, c.architecture, c.seed) for c in plan_evaluations(work, "f" * 16)]
    assert len(cells) == len(set(cells)) == 4 * 2 * 2 * 2
    assert {seed for *_, seed in cells} == {5, 6}


def test_dearest_students_are_planned_first(tmp_path: Path) -> None:
    ipcs = [cell.images_per_class for cell in plan(make_work(tmp_path))]
    assert ipcs == sorted(ipcs, reverse=True)


def test_baselines_on_real_images_belong_to_no_generator(tmp_path: Path) -> None:
    for cell in plan_evaluations(make_work(tmp_path), "f" * 16):
        assert cell.generator == (None if cell.protocol.startswith("real_") else "f" * 16)


def test_row_has_every_column_of_the_table(built: Workspace) -> None:
    evaluate(built, pick(built, "on_the_fly"))
    rows = read_evaluations(built, plan(built))
    assert list(rows.columns) == EVALUATIONS.names
    [row] = rows.to_dict("records")
    assert (row["study"], row["split"], row["selection"], row["preset"]) == ("tiny", "test", "validation", "corrected")
    assert row["generator"] == generator_fingerprint(built)
    assert row["data_fingerprint"] == built.dataset.digest
    assert row["num_threads"] == torch.get_num_threads()
    assert (row["device"], row["torch_version"]) == ("cpu", torch.__version__)
    assert row["wall_seconds"] > 0
    assert 0 <= row["accuracy"] <= row["best_test_accuracy"] <= 1
    assert not [name for name, value in row.items() if value is None or value != value]


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
    cell = pick(built, "fixed")
    first = evaluate(built, cell)
    files = row_files(built)
    second = evaluate(built, cell)
    assert row_files(built) == files
    assert [file.stem for file in files] == [evaluation_row_id(built, cell)]
    timed = {"wall_seconds"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


def test_rows_that_are_there_are_not_planned_again_in_any_study(built: Workspace) -> None:
    planned = plan(built)
    assert missing_evaluations(built, planned) == planned
    done = [pick(built, "on_the_fly"), pick(built, "real_fixed")]
    for cell in done:
        evaluate(built, cell)
    other_study = replace(built, study="another")
    assert missing_evaluations(other_study, planned) == [cell for cell in planned if cell not in done]
    assert len(read_evaluations(other_study, planned)) == 2


def test_baselines_are_shared_by_generators_and_their_rows_are_not(built: Workspace) -> None:
    ours, theirs = plan_evaluations(built, "a" * 16), plan_evaluations(built, "b" * 16)
    ids = [{evaluation_row_id(built, cell) for cell in cells} for cells in (ours, theirs)]
    shared = {evaluation_row_id(built, cell) for cell in ours if cell.generator is None}
    assert ids[0] & ids[1] == shared
    assert len(shared) == len(ours) / 2


@pytest.mark.parametrize("changes", [{"epochs": 3}, {"learning_rate": 0.02}, {"schedule": "cosine"}, {"min_steps": 9}])
def test_row_is_another_one_for_another_recipe(built: Workspace, changes: dict[str, Any]) -> None:
    cell = pick(built, "on_the_fly")
    assert evaluation_row_id(with_evaluation(built, **changes), cell) != evaluation_row_id(built, cell)


@pytest.mark.parametrize("changes", [{"images_per_class": (2, 5)}, {"num_seeds": 9}, {"protocols": ("on_the_fly",)}])
def test_row_is_the_same_one_in_a_larger_grid(built: Workspace, changes: dict[str, Any]) -> None:
    cell = pick(built, "on_the_fly")
    assert evaluation_row_id(with_evaluation(built, **changes), cell) == evaluation_row_id(built, cell)


def test_row_is_another_one_for_other_data(built: Workspace) -> None:
    other = replace(built, dataset=replace(built.dataset, digest="1" * 16))
    cell = pick(built, "real_fixed")
    assert evaluation_row_id(other, cell) != evaluation_row_id(built, cell)


def test_pandas_reads_the_rows_by_itself(built: Workspace) -> None:
    for ipc in (1, 2):
        evaluate(built, pick(built, "real_fixed", ipc))
    rows = pd.read_parquet(Path(built.artifacts.root, "evaluations"))
    assert sorted(rows["ipc"].astype(int)) == [1, 2]
    assert set(rows["dataset"].astype(str)) == {"tiny"}


def test_evaluation_of_a_generator_that_is_not_there_says_which_there_are(built: Workspace) -> None:
    cell = replace(pick(built, "on_the_fly"), generator="f" * 16)
    with pytest.raises(ArtifactError, match=generator_fingerprint(built)):
        evaluate(built, cell)
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
