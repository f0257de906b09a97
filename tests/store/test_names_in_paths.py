"""What other programs make of the names in paths: each program reads real folders, and says which type it found."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from dim_ray.config.names import is_name, path_name
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, trial

NAMES = [
    "2024", "007", "1e5", "1E-5", "0x10", "0xdeadbeef", "0b1", "0o7", "1_000", "1.5", "1.", "1.2.3",
    "9999999999999999999999", "٣", "\uff13", "१२३", "²", "½", "Ⅷ", "一二", "2024-01-01", "2024-1-1", "2024.01.01",
    "01-02-2024", "20240101", "20240101T000000", "2024-01-01T00", "2024-01-01T001", "24-01-01T0000", "2024-W01",
    "20240501T1200Z", "1970-01-01Z", "10-05", "2024_01_01", "inf", "Inf", "INF", "infinity", "Infinity", "nan", "NaN",
    "NAN", "true", "True", "TRUE", "false", "False", "t", "f", "yes", "no", "on", "off", "null", "NULL", "Null", "none",
    "None", "na", "NA", "nil", "epoch", "now", "today", "HIVE_DEFAULT_PARTITION__", "deadbeef", "e5", "1d", "1f", "1L",
    "10L", "1u", "5s", "3D", "1day", "12h30", "May-2024", "2024q1", "123e4567-e89b-12d3-a456-426614174000",
    "a23e4567-e89b-12d3-a456-426614174000", "数据", "猫", "été", "ملف", "🐱", "データ", "हिन्दी", "a1", "A_1", "x.y",
    "3d", "101_ObjectCategories", "data-2024", "inf-0", "nan-1", "b64", "digits-0123abcd", "con",
]  # fmt: skip


def altered(seed: int, count: int) -> list[str]:
    """Return names that are nearly numbers or dates."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        name = list(rng.choice(NAMES[:50]))
        for _ in range(rng.choice([1, 1, 2, 3])):
            place, letter = rng.randrange(len(name) + 1), rng.choice("01245-_.eExXTZbinfatd年٣")
            name[place : place + rng.choice([0, 1])] = [letter] if rng.random() < 0.8 else []
        if is_name("".join(name)):
            found["".join(name)] = None
    return list(found)


EVERY = list(
    dict.fromkeys(
        [
            *NAMES,
            *("".join(parts) for parts in itertools.product("05eaxXnTz", "05eE-_.xT", ["", "5", "e5", "-1"])),
            *altered(0, 400),
        ]
    )
)


def by_pandas(root: Path, name: str) -> list[object]:
    rows = pd.read_parquet(root)
    assert (rows["study"] == name).all()
    return list(pd.read_parquet(root, filters=[("study", "==", name)])["study"])


def by_pyarrow(root: Path, name: str) -> list[object]:
    found: list[object] = pads.dataset(root, partitioning="hive").to_table()["study"].to_pylist()
    return found


def by_polars(root: Path, name: str) -> list[object]:
    rows = polars.scan_parquet(f"{root}/**/*.parquet", hive_partitioning=True)
    return rows.filter(polars.col("study") == name).collect()["study"].to_list()


def by_duckdb(root: Path, name: str) -> list[object]:
    text = f"select study from '{root}/**/*.parquet' where study = $name"
    return [row[0] for row in duckdb.execute(text, {"name": name}).fetchall()]


@pytest.mark.parametrize("read", [by_pandas, by_pyarrow, by_polars, by_duckdb])
@pytest.mark.parametrize("names", [EVERY[::10], pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "all"])
def test_other_programs_read_every_name_as_the_text_that_it_is(
    tmp_path: Path, read: Callable[[Path, str], list[object]], names: list[str]
) -> None:
    """Each name is alone in its table, where programs guess the type from it."""
    pq.write_table(pa.table({"number": [1]}), tmp_path / "row.parquet")
    misread = {}
    for number, given in enumerate(names):
        name = path_name(given, "study")
        folder = tmp_path / str(number) / f"study={name}"
        folder.mkdir(parents=True)
        os.link(tmp_path / "row.parquet", folder / "row.parquet")
        try:
            found: object = read(folder.parent, name)
        except Exception as error:  # each program has its own
            found = error
        if found != [name]:
            misread[given] = found
    assert misread == {}


def test_names_of_every_script_are_written_read_and_filtered(tmp_path: Path) -> None:
    names = ["数据", "猫", "été", "🐱", "हिन्दी", "data-2024"]
    writer, reader = Writer(str(tmp_path)), Reader(str(tmp_path))
    writer.append_evaluations([evaluation(dataset=name) for name in names])
    for name in names:
        writer.append_trial(trial(study=name))
    assert set(reader.evaluations()["dataset"]) == set(names)
    for name in names:
        assert list(reader.evaluations(dataset=name)["dataset"]) == [name]
        assert list(reader.trials(study=name)["study"]) == [name]
    assert len(reader.evaluations(dataset="e\u0301te\u0301")) == 1  # as some systems type it


def test_study_of_an_older_version_with_a_number_for_a_name_is_read(tmp_path: Path) -> None:
    """Older versions wrote such folders; pandas reads them as numbers."""
    Writer(str(tmp_path)).append_trial(trial(study="20240501"))
    assert (tmp_path / "trials/study=20240501").is_dir()
    assert list(Reader(str(tmp_path)).trials(study="20240501")["study"]) == ["20240501"]
    assert list(pd.read_parquet(tmp_path / "trials")["study"]) == [20240501]
