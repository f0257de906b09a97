"""Commands of `python -m dim_ray.results` that look after the storage: verify, compact, merge, sql, export, prune.

UPKEEP["compact"].run("./dim_storage")
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dim_ray.errors import StorageError, UsageError
from dim_ray.progress.stages import counted

__all__ = ["UPKEEP", "Command"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `python -m dim_ray.results`."""

    run: Callable[..., None]
    """Function of the storage's root, the operands, and the flags as keywords."""
    operands: tuple[str, ...] = ()
    """Names of the required operands in messages."""
    optional: tuple[str, ...] = ()
    """Names of the optional operands."""
    flags: tuple[str, ...] = ()
    """Names of the flags besides --storage."""


def _verify(storage: str, exported: str | None = None, **options: Any) -> None:
    if exported is not None:
        _reevaluate(exported, **options)
        return
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"verify takes {', '.join(given)} only for an exported folder: verify DIR {given[0]} ...")
    from dim_ray.store.upkeep.verification import verify

    found = verify(storage)
    for problem in found.problems:
        print(problem)
    print(f"files of rows: {found.num_files}; rows: {found.num_rows}; artefacts: {found.num_artifacts}; in {storage}")
    if found.problems:
        raise StorageError(f"{counted(len(found.problems), 'problem')} in {storage}, named above.")


def _reevaluate(exported: str, *, seeds: int | None, **options: Any) -> None:
    from dim_ray.core.data.dataset import describe
    from dim_ray.export.reevaluation import reevaluate

    verdicts = []
    for cell in reevaluate(
        exported, num_seeds=seeds, on_dataset=lambda dataset: print(describe(dataset), file=sys.stderr), **options
    ):
        low, high = cell.interval
        verdicts.append(cell.is_match)
        print(
            f"{cell.protocol}, IPC {cell.ipc}, {cell.architecture}: card {_percent(cell.stated)}, now "
            f"{_percent(cell.found)}; difference {100 * cell.difference:+.2f}, {100 * cell.confidence:.3g} % interval "
            f"{100 * low:+.2f} to {100 * high:+.2f}: {'match' if cell.is_match else 'MISMATCH'}",
            flush=True,
        )
    num_wrong = verdicts.count(False)
    if num_wrong:
        raise StorageError(
            f"{num_wrong} of {counted(len(verdicts), 'cell')} of {exported}, named above, don't match its card."
        )
    print(f"match: {counted(len(verdicts), 'cell')} of {exported}, every file as its card says")


def _percent(accuracies: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(accuracies):.2f} % (n {len(accuracies)})"


def _compact(storage: str) -> None:
    from dim_ray.store.upkeep.compaction import compact

    done = compact(storage)
    print(
        f"{counted(done.num_rows, 'row')} packed; files of rows: {done.num_files_before} before, "
        f"{done.num_files_after} now; in {storage}"
    )


def _merge(storage: str, ours: str, theirs: str) -> None:
    from dim_ray.store.upkeep.merging import merge

    done = merge(ours, theirs)
    for conflict in done.conflicts:
        print(conflict)
    print(f"{counted(done.num_rows, 'row')} and {counted(len(done.artifacts), 'artefact')} copied into {ours}")
    if done.conflicts:
        raise StorageError(
            f"{counted(len(done.conflicts), 'conflict')} between {ours} and {theirs}; nothing was overwritten."
        )


def _sql(storage: str, text: str) -> None:
    from dim_ray.store.reader import Reader

    print(Reader(storage).sql(text).to_string(index=False))


def _export(
    storage: str, name: str, folder: str, *, push_to_hub: str | None, private: bool, license: str | None
) -> None:
    from pathlib import Path

    from dim_ray.api import named_generator
    from dim_ray.cli.uploads import find_target, upload
    from dim_ray.export.folder import export_generator
    from dim_ray.export.outputs import check_absent
    from dim_ray.store.reader import Reader

    target = find_target(push_to_hub, "model", is_private=private, license=license)
    check_absent(Path(folder))
    generator = named_generator(storage, name)
    rows = Reader(storage).evaluations(dataset=generator.card["dataset"]["name"])
    export_generator(generator, rows, Path(folder), license=license, address=target.address if target else ".")
    num_own = int((rows["generator"] == generator.fingerprint).sum())
    print(f"{generator.fingerprint} with {counted(num_own, 'evaluation')} of it; in {folder}")
    if target:
        written = upload(target, Path(folder))
        print(f"load it in Python:\n  import dim_ray; generator = dim_ray.load_generator({written.address!r})")


def _prune(storage: str, *, quota: int | None, delete: bool, **interest: Any) -> None:
    from dim_ray.store.upkeep.pruning import plan_pruning, prune

    asked = {name: value for name, value in interest.items() if value is not None}
    plan = plan_pruning(storage, quota_bytes=quota, **asked)
    if delete:
        prune(storage, plan)
    for removal in plan.removals:
        print(f"{removal.kind}/{removal.fingerprint}  {removal.size_bytes:,} bytes  {removal.reason}")
    what = "deleted" if delete else "would be deleted, with --delete"
    print(
        f"{counted(len(plan.removals), 'artefact')} {what}; {plan.size_bytes:,} bytes before, {plan.left_bytes:,} "
        f"after; in {storage}"
    )
    if quota is not None and plan.left_bytes > quota:
        raise StorageError(
            f"--quota is {quota:,} bytes, but {plan.left_bytes:,} are rows, studies, and artefacts that are the best "
            "or younger than a day. Allow more."
        )


_ROWS = ("dataset", "ipc", "architecture", "protocol")  # flags that say which evaluations

UPKEEP: Mapping[str, Command] = {
    "verify": Command(run=_verify, optional=("DIR",), flags=("seeds", *_ROWS)),
    "compact": Command(run=_compact),
    "merge": Command(run=_merge, operands=("OURS", "THEIRS")),
    "sql": Command(run=_sql, operands=("QUERY",)),
    "export": Command(run=_export, operands=("GENERATOR", "DIR"), flags=("push_to_hub", "private", "license")),
    "prune": Command(run=_prune, flags=("quota", "delete", *_ROWS)),
}
