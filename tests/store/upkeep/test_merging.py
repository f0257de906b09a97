"""One storage's rows and artefacts into another."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from dim_ray.errors import UsageError
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.schema import EVALUATIONS, TABLES, TRIALS, meaning
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.upkeep.merging import CIRCUMSTANCES, Merge, merge
from dim_ray.store.upkeep.verification import verify
from dim_ray.store.writer import Writer
from tests.helpers.disk_steps import Crash, crash_at, steps
from tests.helpers.made_rows import evaluation, trial, validation

OURS, THEIRS = "aaaa000011112222", "bbbb000011112222"


def two_labs(root: Path) -> tuple[str, str]:
    ours, theirs = str(root / "ours"), str(root / "theirs")
    Writer(ours).append_evaluations([evaluation(seed=seed, generator=OURS) for seed in range(2)])
    Writer(theirs).append_evaluations([evaluation(seed=seed, generator=THEIRS) for seed in range(3)])
    Writer(theirs).append_evaluations([evaluation(seed=0, generator=THEIRS, dataset="mnist", ipc=50)])
    Writer(theirs).append_trial(trial(study="theirs"))
    Writer(theirs).append_validations([validation(generator=THEIRS)])
    for lab, name in ((ours, OURS), (theirs, THEIRS)):
        ArtifactStore(lab).write("generators", name, {"generator.safetensors": name.encode()}, {"of": name})
    return ours, theirs


def contents(root: str) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def test_what_ours_lacks_is_copied_and_the_other_stays_as_it_was(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path)
    before = contents(theirs)
    assert merge(ours, theirs) == Merge(num_rows=6, artifacts=(f"generators/{THEIRS}",), conflicts=())
    assert contents(theirs) == before
    merged, added = Reader(ours).evaluations(), Reader(theirs).evaluations()
    assert len(merged) == 6
    pd.testing.assert_frame_equal(merged[merged["id"].isin(added["id"])].reset_index(drop=True), added)
    assert len(Reader(ours).trials()) == 1
    assert len(Reader(ours).validations()) == 1
    assert verify(ours).problems == ()
    card = f"generators/{THEIRS}/card.json"
    assert contents(ours)[card] == before[card]  # with its own date and version


def test_merging_again_copies_nothing(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path)
    merge(ours, theirs)
    before = contents(ours)
    assert merge(ours, theirs) == Merge(num_rows=0, artifacts=(), conflicts=())
    assert contents(ours) == before


def test_packs_and_object_stores_are_merged_too(tmp_path: Path, object_store: str) -> None:
    ours, theirs = two_labs(tmp_path)
    compact(theirs)
    assert merge(object_store, theirs).num_rows == 6
    assert merge(ours, object_store).num_rows == 6
    assert len(Reader(ours).evaluations()) == 6


def test_rows_and_artefacts_of_one_name_that_differ_are_named_and_ours_stays(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path)
    Writer(theirs).append_evaluations([evaluation(seed=1, generator=OURS, accuracy=0.5, id=None)])
    ArtifactStore(theirs).write("generators", OURS, {"generator.safetensors": b"others"}, {})
    before = contents(ours)
    done = merge(ours, theirs)
    [artefact, row] = done.conflicts
    assert artefact == f"generators/{OURS}: generator.safetensors differ; ours stays."
    assert row.startswith("evaluations/")
    assert row.endswith(": accuracy is 0.9 here and 0.5 there; ours stays.")
    assert {name: data for name, data in contents(ours).items() if name in before} == before
    assert list(Reader(ours).evaluations(generator=OURS)["accuracy"]) == [0.9, 0.9]


def test_the_same_measured_on_another_day_and_machine_is_no_conflict(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path)
    elsewhere = {"host": "theirs", "wall_seconds": 9.0, "created_at": datetime(2020, 1, 1, tzinfo=UTC), "study": "s"}
    Writer(theirs).append_evaluations([evaluation(seed=1, generator=OURS, **elsewhere)])
    assert merge(ours, theirs).conflicts == ()


def test_the_same_trial_of_two_labs_is_no_conflict_though_one_reused_more(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path)
    Writer(ours).append_trial(trial(study="theirs", saved_device_seconds=1.0, alone_device_seconds=2.0, reused_trial=3))
    assert merge(ours, theirs).conflicts == ()


def test_every_column_in_seconds_is_a_circumstance() -> None:
    columns = [field for table in TABLES for field in table.schema]
    assert {field.name for field in columns if meaning(field, "unit") == "seconds"} <= CIRCUMSTANCES


def test_circumstances_are_columns() -> None:
    assert {*EVALUATIONS.names, *TRIALS.names} >= CIRCUMSTANCES


def test_their_damaged_artefact_is_named_and_not_copied_and_the_rest_is(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path)
    (Path(theirs) / f"generators/{THEIRS}/generator.safetensors").write_bytes(b"x")
    done = merge(ours, theirs)
    assert len(done.conflicts) == 1
    assert "is truncated" in done.conflicts[0]
    assert (done.num_rows, done.artifacts) == (6, ())


def test_merge_that_crashes_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    ours, theirs = two_labs(tmp_path / "whole")
    seen: list[str] = []
    with steps(lambda step, path: seen.append(step)):
        merge(ours, theirs)
    assert "write" in seen
    for number in range(len(seen)):
        ours, theirs = two_labs(tmp_path / str(number))
        with pytest.raises(Crash), steps(crash_at(number)):
            merge(ours, theirs)
        merge(ours, theirs)
        assert len(Reader(ours).evaluations()) == 6
        assert verify(ours).problems == ()


def test_storage_is_not_merged_with_itself_or_with_nothing(tmp_path: Path) -> None:
    ours, _ = two_labs(tmp_path)
    with pytest.raises(UsageError, match="give two different ones"):
        merge(ours, f"{ours}/")
    with pytest.raises(UsageError, match=r"there is nothing under .*/nowhere"):
        merge(ours, str(tmp_path / "nowhere"))


def named(root: str, name: str, digest: str) -> None:
    ArtifactStore(root).write(
        "datasets", name.lower(), {}, {"name": name, "digest": digest, "source": f"folder:/{root}"}
    )


def fill_named(root: str, seed: int, digest: str) -> None:
    """Write rows of two data sets, of which `Images` are these data, and a trial of each."""
    own = {"generator": None, "weights": None, "protocol": "real_fixed", "data_fingerprint": digest, "seed": seed}
    Writer(root).append_evaluations([evaluation(dataset=name, **own) for name in ("Images", "digits")])
    Writer(root).append_validations([validation(dataset="Images", data_fingerprint=digest, seed=seed)])
    for dataset in ("folder:/d/Images", "digits"):
        text = json.dumps({"data": {"dataset": dataset}})
        Writer(root).append_trial(trial(study=f"study-{seed}", number=len(dataset), config_json=text, generator=None))
    named(root, "Images", digest)
    named(root, "digits", "d" * 16)


@pytest.mark.parametrize("their_name", ["Images", "images"])
def test_name_of_different_data_is_a_conflict_and_nothing_of_it_is_copied(tmp_path: Path, their_name: str) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    fill_named(ours, 0, "a" * 16)
    fill_named(theirs, 1, "b" * 16)
    (Path(theirs) / "datasets/images/card.json").unlink()
    named(theirs, their_name, "b" * 16)
    done = merge(ours, theirs)
    [conflict] = done.conflicts
    assert f"{their_name} is the name of different data here (folder:/{ours}) and there (folder:/{theirs})" in conflict
    assert "another --data.name" in conflict
    assert done.num_rows == 2
    rows, trials = Reader(ours).evaluations(), Reader(ours).trials()
    assert sorted(rows["dataset"]) == ["Images", "digits", "digits"]
    assert list(Reader(ours).validations()["seed"]) == [0]
    assert sorted(trials["study"]) == ["study-0", "study-0", "study-1"]
    assert verify(ours).problems == ("generators/aaaa000011112222 is missing in " + ours + GONE,)


GONE = ", and 1 row name it. Bring back a copy; the rows stay what they are."


def test_names_of_the_same_data_are_no_conflict_and_new_ones_come_along(tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    fill_named(theirs, 1, "b" * 16)
    named(ours, "digits", "d" * 16)
    assert merge(ours, theirs).conflicts == ()
    assert ArtifactStore(ours).read_card("datasets", "images")["digest"] == "b" * 16
    assert merge(ours, theirs) == Merge(num_rows=0, artifacts=(), conflicts=())


def test_name_of_rows_without_a_card_is_not_given_away(tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    Writer(ours).append_evaluations([evaluation(dataset="Images")])
    fill_named(theirs, 1, "b" * 16)
    assert merge(ours, theirs).conflicts == ()
    assert ArtifactStore(ours).list("datasets") == ["digits"]


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_damaged_card_of_a_name_is_a_conflict(tmp_path: Path, whose: str) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    fill_named(ours, 0, "a" * 16)
    fill_named(theirs, 1, "a" * 16)
    (tmp_path / whose / "datasets/images/card.json").write_text("{")
    done = merge(ours, theirs)
    [conflict] = done.conflicts
    assert f"{whose}/datasets/images" in conflict
    assert done.num_rows == 2
