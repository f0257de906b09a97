"""Benchmarks of large stores: the best of a million evaluations in ten thousand files, and in few; a report.

    python -m benchmarks best --repeats 5
    python -m benchmarks report --repeats 3

They are of four datasets at five IPCs, so that a question is about a twentieth of them. "One partition" is the worst
case, in which all of them are of one dataset and IPC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measure import Case
from benchmarks.storage import folder, row
from benchmarks.training import Setting
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.row_files import encode
from dim_ray.store.rows import check_row
from dim_ray.store.schema import EVALUATION_TABLE
from dim_ray.store.upkeep.compaction import compact

__all__ = ["STORES"]

_ROWS_PER_FILE = 100
_REPORTED_ROWS = 100_000
_ARCHITECTURES, _SEEDS = 10, 5
_DATASETS, _IPCS = ("a", "b", "c", "d"), (1, 10, 20, 50, 100)
_ASKED: Mapping[str, Any] = {"dataset": "a", "ipc": 10}


def _best(setting: Setting) -> list[Case]:
    places = [(dataset, ipc) for dataset in _DATASETS for ipc in _IPCS]
    num_files = -(-setting.num_evaluations // _ROWS_PER_FILE)
    num_rows = num_files * _ROWS_PER_FILE
    cases = []
    for name, spread in (("20 partitions", places), ("one partition", [("a", 10)])):
        root = _write(spread, num_files)
        cases.append(_case(f"{num_rows:,} evaluations in {num_files:,} files, {name}", root, num_rows))
        packed = _write(spread, num_files)
        compact(packed)
        cases.append(_case(f"the same after compaction, {name}", packed, num_rows))
    return cases


def _report(setting: Setting) -> list[Case]:
    from dim_ray.reporting.page import make_page
    from dim_ray.reporting.sections import make_report

    places = [(dataset, ipc) for dataset in _DATASETS for ipc in _IPCS]
    num_files = _REPORTED_ROWS // _ROWS_PER_FILE
    root = _write(places, num_files)

    def call() -> object:
        return make_page(make_report(Reader(root), ArtifactStore(root), {}), made_at=datetime.now(UTC))

    variant = f"{_REPORTED_ROWS:,} evaluations in {num_files:,} files"
    return [Case(benchmark="report", variant=variant, call=call, items=_REPORTED_ROWS, has_arithmetic=False)]


STORES: Mapping[str, Callable[[Setting], list[Case]]] = {"best": _best, "report": _report}
"""By name."""


def _case(variant: str, root: str, num_rows: int) -> Case:
    return Case(
        benchmark="best",
        variant=variant,
        call=lambda: Reader(root).best(**_ASKED),
        items=num_rows,
        has_arithmetic=False,
    )


def _write(places: list[tuple[str, int]], num_files: int) -> str:
    """Write files of a hundred rows each, evenly over the places, and returns the root."""
    root = folder()
    template = check_row(EVALUATION_TABLE, {**row(0), "created_at": datetime(2026, 1, 1, tzinfo=UTC)})
    schema = EVALUATION_TABLE.file_schema
    one = pa.Table.from_pylist([{name: template[name] for name in schema.names}], schema=schema)
    rows = pa.concat_tables([one] * _ROWS_PER_FILE).combine_chunks()
    rng = np.random.default_rng(0)
    for number in range(num_files):
        dataset, ipc = places[number % len(places)]
        first = number // len(places) * _ROWS_PER_FILE
        target = Path(root, "evaluations", f"dataset={dataset}", f"ipc={ipc}")
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{number:016x}.parquet").write_bytes(encode(EVALUATION_TABLE, _vary(rows, number, first, rng)))
    return root


def _vary(rows: pa.Table, number: int, first: int, rng: np.random.Generator) -> pa.Table:
    """Return rows of different ids, generators, architectures, seeds and accuracies."""
    counts = np.arange(first, first + len(rows))
    columns = {
        "id": [f"{number:08x}{index:08x}" for index in range(len(rows))],
        "generator": [f"{count:016x}" for count in counts // (_ARCHITECTURES * _SEEDS)],
        "architecture": [f"convnet{count}" for count in counts // _SEEDS % _ARCHITECTURES],
        "seed": counts % _SEEDS,
        "accuracy": rng.random(len(rows)),
        "validation_accuracy": rng.random(len(rows)),
        "weights": ["average"] * len(rows),
        "protocol": ["on_the_fly"] * len(rows),
        "quirks": ["none"] * len(rows),
        "labels": ["hard"] * len(rows),
    }
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))
    return rows
