"""Copy one storage's rows and artefacts into another, overwriting nothing.

    merge("./ours", "s3://theirs/dim")  # Merge(num_rows=120, artifacts=("generators/0123456789abcdef",), conflicts=())

A row or artefact that is in both and differs is a conflict: it's named, and ours stays. Rows that differ only in when,
where and how fast they were measured agree. So is a name that different data have: none of its rows are copied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dim_ray.config.data import stored_label
from dim_ray.config.names import name_key
from dim_ray.errors import ArtifactError, UsageError, listed
from dim_ray.store.artifacts import DATASETS, KINDS, ArtifactStore
from dim_ray.store.files.faults import PAUSES_SECONDS
from dim_ray.store.files.filesystem import Root, open_root
from dim_ray.store.row_files import ROWS_PER_PACK, write_pack
from dim_ray.store.schema import EVALUATION_TABLE, TABLES, Table
from dim_ray.store.tables import read_rows

__all__ = ["CIRCUMSTANCES", "Merge", "merge"]

CIRCUMSTANCES = frozenset(
    {
        "created_at", "schema_version", "study", "wall_seconds", "device_seconds", "saved_device_seconds",
        "alone_device_seconds", "reused_trial", "drawn_by", "device", "num_threads", "host", "torch_version",
        "started_at", "ended_at",
    }
)  # fmt: skip
"""Columns about when, where and how fast a row was measured, not about its result."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What a merge did."""

    num_rows: int
    """Copied rows."""
    artifacts: tuple[str, ...]
    """Copied artefacts, as kind/fingerprint."""
    conflicts: tuple[str, ...]
    """A sentence for each row, artefact or name that wasn't copied because it differs or is damaged."""


def merge(into: str, other: str) -> Merge:
    """Copy the rows and artefacts that the first storage lacks.

    Artefacts come first, so that no row lacks its generator if copying stops early.

    Raises:
        UsageError: Both roots are the same, or the other storage is empty.
        StorageError: A table of either can't be read, or ours can't be written.
    """
    ours, theirs = open_root(into, PAUSES_SECONDS), open_root(other, PAUSES_SECONDS)
    if ours.uri == theirs.uri:
        raise UsageError(f"both storages are {ours.uri}; give two different ones.")
    if not any(theirs.children(folder) for folder in (*KINDS, *(table.name for table in TABLES))):
        raise UsageError(f"there is nothing under {theirs.uri}; give the root of a storage.")
    stores = ArtifactStore(into), ArtifactStore(other)
    artifacts, conflicts = _merge_artifacts(*stores)
    taken = _merge_names(*stores)
    conflicts += taken.values()
    num_rows = 0
    for table in TABLES:
        count, differing = _merge_rows(ours, theirs, table, taken)
        num_rows += count
        conflicts += differing
    return Merge(num_rows=num_rows, artifacts=tuple(artifacts), conflicts=tuple(conflicts))


def _merge_artifacts(ours: ArtifactStore, theirs: ArtifactStore) -> tuple[list[str], list[str]]:
    copied, conflicts = [], []
    for kind in KINDS:
        there = set(ours.list(kind))
        for fingerprint in theirs.list(kind):
            name = f"{kind}/{fingerprint}"
            try:
                if fingerprint not in there:
                    ours.copy(theirs, kind, fingerprint)
                    copied.append(name)
                elif differing := _differing_files(ours, theirs, kind, fingerprint):
                    conflicts.append(f"{name}: {listed(differing)} differ; ours stays.")
            except ArtifactError as error:
                conflicts.append(f"{name}: {error}")
    return copied, conflicts


def _merge_names(ours: ArtifactStore, theirs: ArtifactStore) -> dict[str, str]:
    """Copy the data sets' cards that ours lacks, and return a sentence by key for each name that is of other data here.

    A name of rows without a card isn't given away: whose it is shows when it's next used.
    """
    here, taken = set(ours.list(DATASETS)), {}
    for key in theirs.list(DATASETS):
        try:
            card = theirs.read_card(DATASETS, key)
            name = str(card["name"])
            if key not in here:
                if not len(read_rows(open_root(ours.root), EVALUATION_TABLE, {"dataset": name}, ["id"])):
                    ours.copy(theirs, DATASETS, key)
                continue
            own = ours.read_card(DATASETS, key)
            if own["digest"] != card["digest"]:
                taken[key] = (
                    f"{DATASETS}/{key}: {name} is the name of different data here ({own['source']}) and there "
                    f"({card['source']}), so rows and trials of it aren't copied. Keep both storages, or measure "
                    "theirs again with another --data.name."
                )
        except ArtifactError as error:
            taken[key] = f"{DATASETS}/{key}: {error} Its rows and trials aren't copied."
    return taken


def _differing_files(ours: ArtifactStore, theirs: ArtifactStore, kind: str, fingerprint: str) -> list[str]:
    """Return the names of files whose checksums in the two cards differ."""
    here, there = (store.read_card(kind, fingerprint)["files"] for store in (ours, theirs))
    return [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]


def _merge_rows(ours: Root, theirs: Root, table: Table, taken: Collection[str]) -> tuple[int, list[str]]:
    here, there = read_rows(ours, table, {}), read_rows(theirs, table, {})
    if taken:
        there = there.filter(pa.array([name_key(name) not in taken for name in _names(there)], pa.bool_()))
    known = pc.is_in(there["id"], value_set=here["id"].combine_chunks())
    missing = there.filter(pc.invert(known))
    for place, rows in _partitions(table, missing):
        for first in range(0, len(rows), ROWS_PER_PACK):
            write_pack(ours, table, place, rows.slice(first, ROWS_PER_PACK))
    return len(missing), list(_differing_rows(table, here, there.filter(known)))


def _names(rows: pa.Table) -> list[str]:
    """Return the name of each row's data; trials have it in their configuration."""
    if "dataset" in rows.column_names:
        return list(rows["dataset"].to_pylist())
    return [stored_label(text) for text in rows["config_json"].to_pylist()]


def _partitions(table: Table, rows: pa.Table) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    for place in rows.group_by(list(table.partitions)).aggregate([]).to_pylist():
        chosen = rows
        for name, value in place.items():
            chosen = chosen.filter(pc.equal(chosen[name], value))
        yield place, chosen


def _differing_rows(table: Table, here: pa.Table, there: pa.Table) -> Iterator[str]:
    columns = [name for name in table.schema.names if name not in CIRCUMSTANCES or name in table.partitions]
    in_both = here.filter(pc.is_in(here["id"], value_set=there["id"].combine_chunks()))
    by_id = {row["id"]: row for row in in_both.select(columns).to_pylist()}
    for row in there.select(columns).to_pylist():
        own = by_id[row["id"]]
        differing = [
            f"{name} is {own[name]!r} here and {row[name]!r} there"
            for name in columns
            if own[name] != row[name] and not (own[name] != own[name] and row[name] != row[name])  # NaN
        ]
        if differing:
            yield f"{table.name}/{row['id']}: {listed(differing, between='; ')}; ours stays."
