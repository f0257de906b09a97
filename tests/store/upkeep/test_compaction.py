"""Small files become few, and no reader or writer notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from dim_ray.errors import StorageError
from dim_ray.store.reader import Reader
from dim_ray.store.upkeep.compaction import Compaction, compact
from dim_ray.store.writer import Writer
from tests.helpers.disk_steps import Crash, crash_at, steps
from tests.helpers.made_rows import evaluation, trial

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def fill(root: str, count: int = 6) -> None:
    days = [LONG_AGO + timedelta(days=day) for day in range(count)]
    rows = [evaluation(seed=seed, ipc=1 + seed % 2, created_at=day) for seed, day in enumerate(days)]
    Writer(root).append_evaluations(rows)
    Writer(root).append_trial(trial(created_at=LONG_AGO))


def files(root: str) -> list[str]:
    return sorted(path.name for path in Path(root).rglob("*") if path.is_file())


def write_again(root: str, accuracy: float = 0.123) -> None:
    Writer(root).append_evaluations([evaluation(seed=0, ipc=1, accuracy=accuracy)])


def accuracy_of_seed_0(root: str) -> list[float]:
    return list(Reader(root).evaluations(seed=0)["accuracy"])


def test_compacted_rows_are_the_same_rows(root: str) -> None:
    fill(root)
    before, trials = Reader(root).evaluations(), Reader(root).trials()
    assert compact(root) == Compaction(num_files_before=7, num_files_after=3, num_rows=6)
    pd.testing.assert_frame_equal(Reader(root).evaluations(), before)
    pd.testing.assert_frame_equal(Reader(root).trials(), trials)
    assert list(Reader(root).evaluations(ipc=2, seed=[1, 3])["seed"]) == [1, 3]


def test_partitions_of_few_files_are_left_as_they_are_if_asked(root: str) -> None:
    rows = [evaluation(seed=seed, ipc=1 + (seed > 1), created_at=LONG_AGO) for seed in range(6)]
    Writer(root).append_evaluations(rows)
    before = Reader(root).evaluations()
    assert compact(root, most_files=4, settled_seconds=1e-6).num_rows == 0
    assert compact(root, most_files=3, settled_seconds=3600).num_rows == 0  # too new by the storage's clock
    time.sleep(1.1)  # an object store's ages have whole seconds
    assert compact(root, most_files=3, settled_seconds=1e-6).num_rows == 4
    pd.testing.assert_frame_equal(Reader(root).evaluations(), before)


def test_plain_pandas_reads_compacted_rows(tmp_path: Path) -> None:
    fill(str(tmp_path))
    compact(str(tmp_path))
    assert len(files(str(tmp_path))) == 3
    assert sorted(pd.read_parquet(tmp_path / "evaluations")["seed"]) == list(range(6))
    assert list(pd.read_parquet(tmp_path / "evaluations", filters=[("ipc", "=", 2)])["seed"]) == [1, 3, 5]


def test_compacting_again_changes_nothing(tmp_path: Path) -> None:
    fill(str(tmp_path))
    compact(str(tmp_path))
    before = files(str(tmp_path))
    assert compact(str(tmp_path)).num_rows == 0
    assert files(str(tmp_path)) == before


def test_rows_that_came_later_go_into_one_file_with_the_packed_ones(tmp_path: Path) -> None:
    root = str(tmp_path)
    fill(root)
    compact(root)
    for seed in (7, 9):
        Writer(root).append_evaluations([evaluation(seed=seed, ipc=1)])
        compact(root)
    names = sorted(path.name for path in (tmp_path / "evaluations").rglob("*.parquet"))
    assert [name[:7] for name in names] == ["rows-3-", "rows-5-"]


def test_files_that_are_large_enough_are_left_alone(tmp_path: Path) -> None:
    root = str(tmp_path)
    Writer(root).append_evaluations([evaluation(seed=seed) for seed in range(10)])
    compact(root, rows_per_pack=4)
    before = files(root)
    assert [name[:7] for name in before] == ["rows-2-", "rows-4-", "rows-4-"]
    Writer(root).append_evaluations([evaluation(seed=10), evaluation(seed=11)])
    compact(root, rows_per_pack=4)
    assert len(set(before) & set(files(root))) == 2
    assert sorted(Reader(root).evaluations()["seed"]) == list(range(12))


def test_row_that_is_written_again_after_compaction_counts_with_its_later_values(root: str) -> None:
    fill(root)
    compact(root)
    write_again(root)
    assert accuracy_of_seed_0(root) == [0.123]
    assert len(Reader(root).evaluations(accuracy=0.9)) == 5  # its earlier values are not found either
    compact(root)
    assert accuracy_of_seed_0(root) == [0.123]
    assert len(Reader(root).evaluations()) == 6


def test_of_two_values_of_a_row_with_the_same_time_the_one_outside_of_the_pack_counts(root: str) -> None:
    when = {"created_at": LONG_AGO}
    Writer(root).append_evaluations([evaluation(seed=seed, accuracy=0.1, **when) for seed in range(3)])
    compact(root)
    Writer(root).append_evaluations([evaluation(seed=1, accuracy=0.2, **when)])
    assert sorted(Reader(root).evaluations()["accuracy"]) == [0.1, 0.1, 0.2]
    compact(root)
    assert sorted(Reader(root).evaluations()["accuracy"]) == [0.1, 0.1, 0.2]


@pytest.mark.parametrize("moment", ["write", "move", "open_input_stream", "delete_file"])
def test_row_that_is_written_again_in_the_middle_of_compaction_keeps_its_later_values(
    tmp_path: Path, moment: str
) -> None:
    root, done = str(tmp_path), []
    fill(root)
    own = str(Reader(root).evaluations(seed=0)["id"][0])

    def hook(step: str, path: str) -> None:
        if step == moment and (own in path or moment == "write") and not done:
            done.append(step)
            write_again(root)

    with steps(hook):
        compact(root)
    assert done
    assert accuracy_of_seed_0(root) == [0.123]
    compact(root)
    assert accuracy_of_seed_0(root) == [0.123]
    assert len(files(root)) == 3


def test_row_that_is_written_again_before_each_step_of_compaction_is_never_lost(tmp_path: Path) -> None:
    root, count = str(tmp_path), 0
    fill(root)

    def hook(step: str, path: str) -> None:
        nonlocal count
        count += 1
        write_again(root, count / 1000)
        assert accuracy_of_seed_0(root) == [count / 1000], step

    with steps(hook):
        compact(root)
    assert count > 15
    assert accuracy_of_seed_0(root) == [count / 1000]
    assert len(Reader(root).evaluations()) == 6


def steps_of(root: str, call: Callable[[], object]) -> int:
    seen: list[str] = []
    with steps(lambda step, path: seen.append(step)):
        call()
    return len(seen)


def test_compaction_that_crashes_anywhere_loses_no_row_and_is_made_good_by_the_next(tmp_path: Path) -> None:
    fill(str(tmp_path / "whole"))
    total = steps_of(str(tmp_path), lambda: compact(str(tmp_path / "whole")))
    assert total > 15
    for number in range(total):
        root = str(tmp_path / str(number))
        fill(root)
        with pytest.raises(Crash), steps(crash_at(number)):
            compact(root)
        assert sorted(Reader(root).evaluations()["seed"]) == list(range(6)), number
        compact(root)
        assert sorted(pd.read_parquet(f"{root}/evaluations")["seed"]) == list(range(6)), number
        assert len(files(root)) == 3


def test_reader_sees_every_row_once_at_each_step_of_compaction(tmp_path: Path) -> None:
    root, seen = str(tmp_path), []
    fill(root)

    def hook(step: str, path: str) -> None:
        seen.append(step)
        assert sorted(Reader(root).evaluations()["seed"]) == list(range(6)), step

    with steps(hook):
        compact(root)
    assert {"write", "written", "move", "delete_file"} <= set(seen)


def test_reader_whose_files_are_compacted_after_it_listed_them_lists_again(tmp_path: Path) -> None:
    root, done = str(tmp_path), []
    fill(root)

    def hook(step: str, path: str) -> None:
        if step == "open_input_stream" and not done:
            done.append(compact(root).num_rows)

    with steps(hook):
        assert sorted(Reader(root).evaluations()["seed"]) == list(range(6))
    assert done == [6]


def test_reader_whose_first_listing_missed_files_and_their_pack_lists_until_nothing_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dim_ray.store import tables

    root, listings = str(tmp_path), []
    fill(root)
    whole = tables.list_files

    def torn(*arguments: object) -> list[tables.RowFile]:
        found = whole(*arguments)  # type: ignore[arg-type]
        listings.append(found)
        if len(listings) == 1:
            compact(root)
            return found[:2]  # as a listing may go that began before compaction and ended after it
        return found

    monkeypatch.setattr(tables, "list_files", torn)
    assert sorted(Reader(root).evaluations()["seed"]) == list(range(6))
    assert len(listings) >= 3


def test_two_compactions_at_once_lose_nothing(tmp_path: Path) -> None:
    fill(str(tmp_path / "whole"))
    total = steps_of(str(tmp_path), lambda: compact(str(tmp_path / "whole")))
    for number in range(total):
        root, count = str(tmp_path / str(number)), -1
        fill(root)

        def hook(step: str, path: str, root: str = root, number: int = number) -> None:
            nonlocal count
            count += 1
            if count == number:
                compact(root)

        with steps(hook):
            compact(root)
        assert sorted(Reader(root).evaluations()["seed"]) == list(range(6)), number


def test_writers_readers_and_two_compactions_at_once(tmp_path: Path) -> None:
    root = str(tmp_path)
    Writer(root).append_evaluations([evaluation(seed=0)])

    def write(first: int) -> None:
        for seed in range(first, 120, 2):
            Writer(root).append_evaluations([evaluation(seed=seed)])

    with ThreadPoolExecutor(4) as threads:
        writing = [threads.submit(write, first) for first in (0, 1)]
        compacting = threads.submit(lambda: [compact(root) for _ in range(10)])
        counts = []
        while not all(task.done() for task in (*writing, compacting)):
            seeds = list(Reader(root).evaluations()["seed"])
            assert len(set(seeds)) == len(seeds)
            counts.append(len(seeds))
            compact(root)
        for task in (*writing, compacting):
            task.result()
    assert counts == sorted(counts), "a row that was there went missing for a moment"
    assert sorted(Reader(root).evaluations()["seed"]) == list(range(120))


def test_on_an_object_store_rows_that_may_be_written_again_soon_are_left_alone(object_store: str) -> None:
    Writer(object_store).append_evaluations([evaluation(seed=seed) for seed in range(3)])
    assert compact(object_store) == Compaction(num_files_before=3, num_files_after=3, num_rows=0)
    assert compact(object_store, settled_seconds=0).num_rows == 3


def test_damaged_file_stops_compaction_by_name_and_nothing_is_deleted(tmp_path: Path) -> None:
    root = str(tmp_path)
    fill(root)
    bad = next((tmp_path / "evaluations").rglob("*.parquet"))
    bad.write_bytes(b"PAR1 and no more")
    before = files(root)
    with pytest.raises(StorageError, match="is damaged") as caught:
        compact(root)
    assert str(bad) in str(caught.value)
    assert set(before) <= set(files(root))


def test_pack_that_does_not_read_as_it_was_written_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dim_ray.store.files.filesystem import Root

    root = str(tmp_path)
    fill(root)
    before = files(root)
    read = Root.read
    monkeypatch.setattr(Root, "read", lambda self, key: b"rotten" if "/rows-" in key else read(self, key))
    with pytest.raises(StorageError, match="doesn't read as it was written; nothing was deleted"):
        compact(root)
    assert set(before) <= set(files(root))


def test_compaction_of_nothing_makes_no_folder(tmp_path: Path) -> None:
    assert compact(str(tmp_path / "nowhere")) == Compaction(num_files_before=0, num_files_after=0, num_rows=0)
    assert list(tmp_path.iterdir()) == []
