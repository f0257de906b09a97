"""Rows from the writer to the reader and to plain pandas."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dim_ray.errors import StorageError, UsageError
from dim_ray.store import tables
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.reader import Reader
from dim_ray.store.schema import EVALUATION_TABLE, EVALUATIONS, SCHEMA_VERSION, TRIAL_TABLE, TRIALS, VALIDATIONS
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, real_evaluation, trial, validation

# A writer that says when its first bytes are in the file, and then waits to be killed.
NEWER = SCHEMA_VERSION + 1
WRITER_IN_MID_FILE = """
import os, sys, time
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation

def fsync(descriptor):
    print("in the middle", flush=True)
    time.sleep(60)

os.fsync = fsync
Writer(sys.argv[1]).append_evaluations([evaluation(seed=7)])
"""


def test_written_row_comes_back_with_every_value_and_type(root: str) -> None:
    created_at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    row = evaluation(
        id="0123456789abcdef",
        created_at=created_at,
        labels="soft",
        labeller="eeee000011112222",
        candidates=4,
        latent_steps=100,
    )
    Writer(root).append_evaluations([row])
    frame = Reader(root).evaluations()
    assert list(frame.columns) == EVALUATIONS.names
    assert frame.iloc[0].to_dict() == row | {"schema_version": SCHEMA_VERSION, "created_at": pd.Timestamp(created_at)}


def test_written_trial_comes_back_with_every_value(root: str) -> None:
    row = trial(objective=None, generator=None, state="failed", error="out of memory\nat step 3")
    Writer(root).append_trial(row)
    frame = Reader(root).trials()
    assert list(frame.columns) == TRIALS.names
    read = {name: None if pd.isna(value) else value for name, value in frame.iloc[0].to_dict().items()}
    assert {name: read[name] for name in row} == row


def test_written_validation_comes_back_with_every_value(root: str) -> None:
    row = validation(accuracy=0.0, error="the loss is nan.")
    Writer(root).append_validations([row, validation(seed=1)])
    frame = Reader(root).validations(seed=0)
    assert list(frame.columns) == VALIDATIONS.names
    [read] = frame.to_dict("records")
    assert {name: read[name] for name in row} == row
    assert len(Reader(root).validations(dataset="digits", ipc=10)) == 2
    assert Reader(root).evaluations().empty


def test_rows_lie_where_the_layout_says(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path))
    [evaluation_path] = writer.append_evaluations([evaluation(id="ab12", dataset="mnist", ipc=50)])
    trial_path = writer.append_trial(trial(id="cd34", study="s-1"))
    assert evaluation_path == str(tmp_path / "evaluations/dataset=mnist/ipc=50/ab12.parquet")
    assert trial_path == str(tmp_path / "trials/study=s-1/cd34.parquet")
    inside = pq.read_schema(pa.OSFile(evaluation_path))
    assert set(EVALUATIONS.names) - set(inside.names) == {"dataset", "ipc"}


def test_writer_keeps_both_rows_when_two_trials_finish_together(root: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: Writer(root).append_trial(trial(number=number)), range(24)))
    assert sorted(Reader(root).trials()["number"]) == list(range(24))


def test_retried_rows_are_there_once_with_the_later_values(root: str) -> None:
    Writer(root).append_evaluations([evaluation(seed=s, accuracy=0.1) for s in range(3)])
    Writer(root).append_evaluations([evaluation(seed=s, accuracy=0.2) for s in range(3)])
    assert list(Reader(root).evaluations()["accuracy"]) == [0.2, 0.2, 0.2]


def test_nothing_is_written_when_one_of_the_rows_is_wrong(root: str) -> None:
    with pytest.raises(StorageError):
        Writer(root).append_evaluations([evaluation(), evaluation(seed="1")])
    assert Reader(root).evaluations().empty


@pytest.mark.parametrize("datasets", [("digits",), ("digits", "mnist", "cifar10")])
def test_plain_pandas_reads_the_table_and_filters_on_its_partitions(tmp_path: Path, datasets: tuple[str, ...]) -> None:
    rows = [make(dataset=d, ipc=i) for d in datasets for i in (1, 10, 50) for make in (evaluation, real_evaluation)]
    Writer(str(tmp_path)).append_evaluations(rows)
    table = f"{tmp_path}/evaluations"
    everything = pd.read_parquet(table)
    assert set(everything.columns) == set(EVALUATIONS.names)
    counts = everything.groupby(["dataset", "protocol", "ipc", "architecture"]).accuracy.agg(["mean", "std", "count"])
    assert len(counts) == len(rows)
    assert set(counts["count"]) == {1}
    tens = pd.read_parquet(table, filters=[("ipc", "=", 10)])
    assert len(tens) == 2 * len(datasets)
    assert set(tens["ipc"].astype(int)) == {10}
    one = pd.read_parquet(
        table, filters=[("ipc", "=", 10), ("dataset", "=", "digits"), ("protocol", "=", "on_the_fly")]
    )
    assert list(one["generator"]) == [evaluation()["generator"]]


def test_table_that_begins_with_rows_of_nulls_reads_with_the_right_types(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations(
        [
            real_evaluation(id="0", num_threads=None, best_test_accuracy=None),
            evaluation(id="1", num_threads=2, best_test_accuracy=0.5),
        ]
    )
    for frame in (pd.read_parquet(tmp_path / "evaluations"), Reader(str(tmp_path)).evaluations()):
        rows = frame.set_index("id")
        assert rows.loc["1", "generator"] == evaluation()["generator"]
        assert pd.isna(rows.loc["0", "generator"])
        assert rows["best_test_accuracy"].sum() == 0.5


def test_dataset_named_by_a_number_stays_a_string(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation(dataset="2024"), evaluation(dataset="007")])
    assert sorted(Reader(str(tmp_path)).evaluations()["dataset"]) == ["007", "2024"]
    assert len(Reader(str(tmp_path)).evaluations(dataset="007")) == 1


def test_writer_killed_in_mid_file_leaves_no_row_and_its_retry_writes_one(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path))
    writer.append_evaluations([evaluation(seed=0)])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER_IN_MID_FILE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    folder = tmp_path / "evaluations/dataset=digits/ipc=10"
    left_behind = [path for path in folder.iterdir() if path.suffix != ".parquet"]
    assert len(left_behind) == 1, "the process was to die while its temporary file was there"
    assert left_behind[0].stat().st_size > 0
    left_behind[0].write_bytes(left_behind[0].read_bytes()[:100])  # whatever had reached the disk

    table = f"{tmp_path}/evaluations"
    assert list(pd.read_parquet(table)["seed"]) == [0]
    assert list(pd.read_parquet(table, filters=[("ipc", "=", 10)])["seed"]) == [0]
    assert list(Reader(str(tmp_path)).evaluations()["seed"]) == [0]
    writer.append_evaluations([evaluation(seed=7)])
    assert sorted(pd.read_parquet(table)["seed"]) == [0, 7]
    assert list(Reader(str(tmp_path)).evaluations()["seed"]) == [0, 7]


def test_readers_meanwhile_see_whole_rows_only(tmp_path: Path) -> None:
    root = str(tmp_path)
    Writer(root).append_evaluations([evaluation(seed=0)])
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(
            lambda: [Writer(root).append_evaluations([evaluation(seed=s % 20)]) for s in range(150)]
        )
        counts = []
        while not writing.done():
            counts.append(len(Reader(root).evaluations()))
            assert pd.read_parquet(f"{root}/evaluations")["accuracy"].eq(0.9).all()
        writing.result()
    assert counts == sorted(counts), "a row that was there went missing for a moment"
    assert len(Reader(root).evaluations()) == 20


def test_failed_write_leaves_the_row_before_it_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(str(tmp_path), pauses_seconds=())
    writer.append_evaluations([evaluation(accuracy=0.5)])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full; free some space"):
        writer.append_evaluations([evaluation(accuracy=0.6)])
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".parquet"]
    assert list(Reader(str(tmp_path)).evaluations()["accuracy"]) == [0.5]


@pytest.mark.parametrize(
    ("filters", "seeds"),
    [
        ({}, [0, 1, 2, 3]),
        ({"ipc": 10}, [0, 1]),
        ({"ipc": [10, 50], "seed": [1, 2]}, [1, 2]),
        ({"generator": None}, [3]),
        ({"protocol": "on_the_fly", "dataset": "digits"}, [0, 1, 2]),
        ({"ipc": []}, []),
        ({"dataset": "mnist"}, []),
    ],
)
def test_filters_choose_rows(root: str, filters: dict[str, Any], seeds: list[int]) -> None:
    Writer(root).append_evaluations(
        [evaluation(seed=0), evaluation(seed=1), evaluation(seed=2, ipc=50), real_evaluation(seed=3, ipc=1)]
    )
    frame = Reader(root).evaluations(**filters)
    assert sorted(frame["seed"]) == seeds
    assert list(frame.columns) == EVALUATIONS.names


def test_ids_are_those_of_rows_and_packs_that_are_asked_for(root: str) -> None:
    Writer(root).append_evaluations([evaluation(seed=seed, ipc=1 + seed % 2) for seed in range(6)])
    compact(root, settled_seconds=0.0)
    Writer(root).append_evaluations([evaluation(seed=seed, dataset="mnist") for seed in range(2)])
    Writer(root).append_evaluations([evaluation(seed=seed, ipc=1) for seed in (0, 10, 12)])  # the first is in a pack
    reader = Reader(root)
    rows = reader.evaluations(dataset="digits")
    assert len(rows) == 8
    assert reader.ids(EVALUATION_TABLE, dataset="digits") == set(rows["id"])
    asked = [*rows["id"][:7], "0" * 16]
    assert reader.ids(EVALUATION_TABLE, dataset="digits", id=asked) == set(rows["id"][:7])
    assert set(reader.evaluations(id=asked)["id"]) == set(rows["id"][:7])
    assert reader.ids(EVALUATION_TABLE, dataset="cifar10") == set()


def test_ids_that_are_asked_for_open_no_file_of_another_row(tmp_path: Path) -> None:
    Writer(str(tmp_path)).append_evaluations([evaluation(seed=seed) for seed in range(3)])
    rows = Reader(str(tmp_path)).evaluations()
    for damaged in rows["id"][1:]:
        (tmp_path / f"evaluations/dataset=digits/ipc=10/{damaged}.parquet").write_bytes(b"")
    assert Reader(str(tmp_path)).ids(EVALUATION_TABLE) == set(rows["id"])
    assert list(Reader(str(tmp_path)).evaluations(id=rows["id"][0])["seed"]) == [0]


def test_filter_on_an_unknown_column_names_the_nearest(root: str) -> None:
    with pytest.raises(UsageError, match="no column 'data_set'; did you mean 'dataset'"):
        Reader(root).evaluations(data_set="digits")


def test_filter_of_another_type_is_refused_instead_of_matching_nothing(root: str) -> None:
    with pytest.raises(UsageError, match="the filter ipc is 'ten'; allowed: values of type int32"):
        Reader(root).evaluations(ipc="ten")


def test_rows_come_oldest_first(root: str) -> None:
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
    Writer(root).append_evaluations([evaluation(seed=t.day, created_at=t) for t in times])
    assert list(Reader(root).evaluations()["seed"]) == [1, 2, 3]


def test_absent_root_gives_empty_frames_with_all_columns_and_makes_no_folder(tmp_path: Path) -> None:
    reader = Reader(str(tmp_path / "nowhere"))
    evaluations, trials = reader.evaluations(), reader.trials()
    assert (len(evaluations), list(evaluations.columns)) == (0, EVALUATIONS.names)
    assert (len(trials), list(trials.columns)) == (0, TRIALS.names)
    assert evaluations["accuracy"].dtype == float
    assert list(tmp_path.iterdir()) == []


def _truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip_a_byte_of_the_footer(data: bytes) -> bytes:
    return data[:-200] + bytes([data[-200] ^ 0xFF]) + data[-199:]


@pytest.mark.parametrize(
    "damage", [_truncate, _flip_a_byte_of_the_footer, lambda data: b"", lambda data: b"not a table"]
)
def test_damaged_file_is_named_and_never_passed_over(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    good, bad = (Path(p) for p in Writer(str(tmp_path)).append_evaluations([evaluation(seed=0), evaluation(seed=1)]))
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(StorageError) as caught:
        Reader(str(tmp_path)).evaluations()
    assert str(bad) in str(caught.value)
    assert str(good) not in str(caught.value)


def _rewrite(path: str, metadata: dict[str, str] | None, drop: str | None = None) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table((table.drop_columns(drop) if drop else table).replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("metadata", "drop", "message"),
    [
        (
            {"schema_version": str(NEWER), "table": "evaluations"},
            None,
            rf"newer version of dim_ray \(schema {NEWER}, .* up to {SCHEMA_VERSION}\)",
        ),
        (None, None, "carries no schema version"),
        ({"schema_version": "1", "table": "trials"}, None, "holds rows of trials, not of evaluations"),
        ({"schema_version": "1", "table": "evaluations"}, "seed", "lacks the columns seed"),
    ],
)
def test_file_that_is_not_ours_or_newer_is_refused_by_name(
    tmp_path: Path, metadata: dict[str, str] | None, drop: str | None, message: str
) -> None:
    [path] = Writer(str(tmp_path)).append_evaluations([evaluation()])
    _rewrite(path, metadata, drop)
    with pytest.raises(StorageError, match=message) as caught:
        Reader(str(tmp_path)).evaluations()
    assert path in str(caught.value)


def test_file_outside_of_the_partitions_is_refused_by_name(tmp_path: Path) -> None:
    [path] = Writer(str(tmp_path)).append_evaluations([evaluation()])
    os.rename(path, tmp_path / "evaluations/stray.parquet")
    with pytest.raises(StorageError, match=r"stray\.parquet isn't where rows of evaluations belong"):
        Reader(str(tmp_path)).evaluations()


# Versions of the columns


def _newer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this version of dim_ray the next one, which has one more column of evaluations."""
    from dataclasses import replace

    from dim_ray.store import reader, row_files, rows, schema

    column = schema._optional("temperature", pa.float64(), "Of the room.", "degrees", since=NEWER)
    table = replace(schema.EVALUATION_TABLE, schema=EVALUATIONS.append(column))
    for module in (schema, rows, row_files):
        monkeypatch.setattr(module, "SCHEMA_VERSION", NEWER)
    monkeypatch.setattr(reader, "EVALUATION_TABLE", table)
    monkeypatch.setattr("dim_ray.store.writer.EVALUATION_TABLE", table)
    monkeypatch.setattr("dim_ray.store.upkeep.compaction.TABLES", (table, schema.TRIAL_TABLE))


def test_rows_of_an_older_version_are_read_and_packed_with_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dim_ray.store.upkeep.compaction import compact

    root = str(tmp_path)
    [old] = Writer(root).append_evaluations([evaluation(seed=0)])
    _newer_columns(monkeypatch)
    [new] = Writer(root).append_evaluations([evaluation(seed=1, temperature=20.0)])
    assert [pq.read_schema(path).metadata[b"schema_version"] for path in (old, new)] == [
        str(SCHEMA_VERSION).encode(),
        str(NEWER).encode(),
    ]
    for _ in range(2):
        rows = Reader(root).evaluations()
        assert list(rows["schema_version"]) == [SCHEMA_VERSION, NEWER]
        assert rows["temperature"].isna().tolist() == [True, False]
        assert len(Reader(root).evaluations(temperature=None)) == 1
        assert compact(root).num_files_after == 1


def test_file_of_the_newer_version_without_its_column_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = Writer(str(tmp_path)).append_evaluations([evaluation(seed=0)])
    _rewrite(path, {"schema_version": str(NEWER), "table": "evaluations"})
    _newer_columns(monkeypatch)
    with pytest.raises(StorageError, match="lacks the columns temperature"):
        Reader(str(tmp_path)).evaluations()


def test_trials_of_version_2_are_read_without_the_columns_of_later_ones(tmp_path: Path) -> None:
    path = Writer(str(tmp_path)).append_trial(trial())
    table = pq.read_table(path, partitioning=None).drop_columns(["num_seeds", "objective_std", "drawn_by"])
    pq.write_table(table.replace_schema_metadata({"schema_version": "2", "table": "trials"}), path)
    [row] = Reader(str(tmp_path)).trials().to_dict("records")
    assert row["objective"] == trial()["objective"]
    assert pd.isna(row["num_seeds"])
    assert pd.isna(row["objective_std"])
    assert pd.isna(row["drawn_by"])


def test_texts_above_what_one_array_holds_are_read_as_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    Writer(root).append_evaluations(
        [evaluation(seed=seed, ipc=ipc, study=None) for seed in range(3) for ipc in (1, 10)]
    )
    Writer(root).append_trial(trial(error="x"))
    before = Reader(root).evaluations(protocol="on_the_fly", dataset="digits", study=None)
    monkeypatch.setattr(tables, "_MOST_TEXT_BYTES", 10)
    pd.testing.assert_frame_equal(Reader(root).evaluations(protocol="on_the_fly", dataset="digits", study=None), before)
    assert tables.read_rows(open_root(root), TRIAL_TABLE, {})["error"].to_pylist() == ["x"]


@pytest.mark.parametrize("seed", ["zero", "one"])
def test_file_with_a_column_of_another_type_is_named(tmp_path: Path, seed: str) -> None:
    _, bad = Writer(str(tmp_path)).append_evaluations([evaluation(seed=0), evaluation(seed=1)])
    rows = pq.ParquetFile(bad).read()
    place = rows.schema.get_field_index("seed")
    pq.write_table(rows.set_column(place, "seed", pa.array([seed])), bad)
    with pytest.raises(StorageError, match="has columns of other types than evaluations") as caught:
        Reader(str(tmp_path)).evaluations()
    assert bad in str(caught.value)
