"""Find artefacts that nobody needs, and delete them.

    plan = plan_pruning("./dim_storage", quota_bytes=10**9)
    prune("./dim_storage", plan)

A generator is needed if a row of interest names it, and so are its prior and teachers; by default every row is of
interest. Folders that a killed writer left are needed by nobody. Under a quota, priors and teachers follow, which only
new distillations or soft labels need, then generators that are best nowhere, oldest first. Rows stay, and so does
anything younger than a day, since somebody may be about to use it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dim_ray.errors import StorageError
from dim_ray.store.analysis.selection import CELL, may_choose, summarise
from dim_ray.store.artifacts import KINDS, ArtifactStore
from dim_ray.store.files.filesystem import Root, is_name, open_root
from dim_ray.store.reader import Reader
from dim_ray.store.schema import TABLES

__all__ = ["Plan", "Removal", "plan_pruning", "prune"]

_MIN_AGE = timedelta(days=1)
_FOLDERS = (*KINDS, *(table.name for table in TABLES), "studies")
_UNDER_QUOTA = {
    "priors": "the quota: only a new distillation needs it",
    "teachers": "the quota: only a new distillation or soft labels need it",
    "generators": "the quota: nowhere the best",
}  # in the order of removal


@dataclass(frozen=True, kw_only=True)
class Removal:
    """An artefact to delete."""

    kind: str
    fingerprint: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to delete, and the size of the storage."""

    removals: tuple[Removal, ...]
    size_bytes: int
    """Size of the whole storage before."""

    @property
    def left_bytes(self) -> int:
        """Size of the whole storage afterwards."""
        return self.size_bytes - sum(removal.size_bytes for removal in self.removals)


@dataclass(frozen=True, kw_only=True)
class _Stored:
    kind: str
    fingerprint: str
    size_bytes: int
    created_at: datetime
    needs: frozenset[tuple[str, str]]

    def removal(self, reason: str) -> Removal:
        return Removal(kind=self.kind, fingerprint=self.fingerprint, size_bytes=self.size_bytes, reason=reason)


def plan_pruning(root: str, *, quota_bytes: int | None = None, **interest: Any) -> Plan:
    """Return what to delete; nothing is deleted yet.

    Args:
        root: Root of the storage, as for `dim_ray.store.files.filesystem.open_root`.
        quota_bytes: Largest size of the whole storage. Default: delete only what nobody needs.
        **interest: Values by column of the evaluations of interest; trials and validations then don't count.
            Default: every row.

    Raises:
        UsageError: There is no such column.
        ArtifactError: A card is damaged; see `dim_ray.store.upkeep.verification`.
        StorageError: The storage can't be read, or no row is of interest.
    """
    opened = open_root(root)
    size_bytes = sum(info.size or 0 for folder in _FOLDERS for info in opened.children(folder, recursive=True))
    oldest = datetime.now(UTC) - _MIN_AGE
    stored = {(own.kind, own.fingerprint): own for own in _artifacts(root)}
    named, best = _named_and_best(root, interest)
    young = {key for key, own in stored.items() if own.created_at > oldest}
    young |= {need for key in young for need in stored[key].needs}
    kept = young | {key for key in stored if key[0] == "generators" and key[1] in named}
    kept |= {need for key in kept if key in stored for need in stored[key].needs}
    removals = [own.removal("nothing that is kept names it") for key, own in stored.items() if key not in kept]
    plan = Plan(removals=(*_unfinished(opened, set(stored), oldest), *removals), size_bytes=size_bytes)
    if quota_bytes is None:
        return plan
    old = [own for key, own in stored.items() if key in kept - young]
    kinds = list(_UNDER_QUOTA)
    for own in sorted(old, key=lambda own: (kinds.index(own.kind), own.created_at)):
        if plan.left_bytes <= quota_bytes:
            break
        if own.fingerprint not in best:
            plan = Plan(removals=(*plan.removals, own.removal(_UNDER_QUOTA[own.kind])), size_bytes=size_bytes)
    return plan


def prune(root: str, plan: Plan) -> None:
    """Delete what a plan names, skipping what is gone already.

    Raises:
        StorageError: An artefact can't be deleted.
    """
    artifacts = ArtifactStore(root)
    for removal in plan.removals:
        artifacts.remove(removal.kind, removal.fingerprint)


def _artifacts(root: str) -> Iterator[_Stored]:
    artifacts, opened = ArtifactStore(root), open_root(root)
    for kind in KINDS:
        for fingerprint in artifacts.list(kind):
            card = artifacts.read_card(kind, fingerprint)
            needs = {("teachers", name) for name in card.get("teachers", ())}
            yield _Stored(
                kind=kind,
                fingerprint=fingerprint,
                size_bytes=sum(info.size or 0 for info in opened.children(f"{kind}/{fingerprint}")),
                created_at=datetime.fromisoformat(card["created_at"]),
                needs=frozenset(needs | ({("priors", card["prior"])} if "prior" in card else set())),
            )


def _unfinished(root: Root, stored: Container[tuple[str, str]], oldest: datetime) -> Iterator[Removal]:
    """Find folders without a card that nobody has written to since `oldest`."""
    for kind in KINDS:
        for folder in root.children(kind):
            name = folder.base_name
            if folder.is_file or not is_name(name) or (kind, name) in stored:
                continue
            files = [info for info in root.children(f"{kind}/{name}") if info.is_file]
            if files and all(info.mtime < oldest for info in files):
                size_bytes = sum(info.size for info in files)
                yield Removal(kind=kind, fingerprint=name, size_bytes=size_bytes, reason="it was never finished")


def _named_and_best(root: str, interest: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Return the generators that rows name, and those that are best on some terms."""
    reader = Reader(root)
    rows = reader.evaluations(**interest)
    if interest and rows.empty:
        raise StorageError(
            f"no evaluation under {root} has {dict(interest)}, so nothing would be kept; ask for others."
        )
    cells = summarise(rows[may_choose(rows)])
    shared = [name for name in CELL if name not in ("generator", "weights")]
    best = cells.loc[cells.groupby(shared, dropna=False)["validation_mean"].idxmax()]["generator"]
    named = set(rows["generator"].dropna())
    if not interest:
        named |= set(reader.trials()["generator"].dropna()) | set(reader.validations()["generator"])
    return named, set(best)
