"""Find artefacts that nobody needs, and delete them.

    plan = plan_pruning("./dim_storage", quota_bytes=10**9)
    prune("./dim_storage", plan)

A generator is needed if a row of interest names it, and so are its prior and teachers; by default every row is of
interest. Folders that a killed writer left are needed by nobody. Under a quota, priors and teachers follow, which only
new distillations or soft labels need, then generators that are best nowhere, oldest first. Rows stay, and so does
anything younger than a day, since somebody may be about to use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dim_ray.config.names import is_name
from dim_ray.errors import StorageError
from dim_ray.store.analysis.selection import TERMS, may_choose, summarise
from dim_ray.store.artifacts import DATASETS, KINDS, ArtifactStore
from dim_ray.store.files.filesystem import Root, open_root
from dim_ray.store.reader import Reader
from dim_ray.store.schema import TABLES

__all__ = ["Plan", "Removal", "plan_pruning", "prune"]

_MIN_AGE = timedelta(days=1)
_FOLDERS = (*KINDS, DATASETS, *(table.name for table in TABLES), "studies")
_UNDER_QUOTA = {
    "priors": "the quota: only a new distillation needs it",
    "teachers": "the quota: only a new distillation or soft labels need it",
    "generators": "the quota: nowhere the best",
}  # in the order of removal

_Key = tuple[str, str]
"""Kind and fingerprint."""
_Cards = Mapping[_Key, Mapping[str, Any]]


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


def plan_pruning(root: str, *, quota_bytes: int | None = None, **interest: Any) -> Plan:
    """Return what nobody needs, and with a quota what else to delete, until the whole storage is as small.

    With `interest`, only evaluations with these values by column count, and neither trials nor validations.

    Raises:
        UsageError: There is no such column.
        ArtifactError: A card is damaged; see `dim_ray.store.upkeep.verification`.
        StorageError: The storage can't be read, or no row is of interest.
    """
    opened, artifacts = open_root(root), ArtifactStore(root)
    oldest = datetime.now(UTC) - _MIN_AGE
    cards = {(kind, name): artifacts.read_card(kind, name) for kind in KINDS for name in artifacts.list(kind)}
    times = {key: datetime.fromisoformat(card["created_at"]) for key, card in cards.items()}
    named, best = _named_and_best(root, interest)
    young = _with_needs(cards, {key for key in cards if times[key] > oldest})
    kept = _with_needs(cards, young | {key for key in cards if key[0] == "generators" and key[1] in named})
    removals = [*_unfinished(opened, cards, oldest)]
    removals += [_removal(opened, *key, "nothing that is kept names it") for key in cards if key not in kept]
    size_bytes = sum(_size_bytes(opened, folder) for folder in _FOLDERS)
    plan = Plan(removals=tuple(removals), size_bytes=size_bytes)
    if quota_bytes is None:
        return plan
    kinds = list(_UNDER_QUOTA)
    old = [key for key in cards if key in kept - young and key[1] not in best]
    for kind, name in sorted(old, key=lambda key: (kinds.index(key[0]), times[key])):
        if plan.left_bytes <= quota_bytes:
            break
        plan = replace(plan, removals=(*plan.removals, _removal(opened, kind, name, _UNDER_QUOTA[kind])))
    return plan


def prune(root: str, plan: Plan) -> None:
    """Delete what a plan names; raise a StorageError if an artefact can't be deleted."""
    artifacts = ArtifactStore(root)
    for removal in plan.removals:
        artifacts.remove(removal.kind, removal.fingerprint)


def _with_needs(cards: _Cards, keys: set[_Key]) -> set[_Key]:
    """Return artefacts together with the priors and teachers that their cards name."""
    needs = {("teachers", name) for key in keys & cards.keys() for name in cards[key].get("teachers", ())}
    return keys | needs | {("priors", cards[key]["prior"]) for key in keys & cards.keys() if "prior" in cards[key]}


def _removal(root: Root, kind: str, fingerprint: str, reason: str) -> Removal:
    size_bytes = _size_bytes(root, f"{kind}/{fingerprint}")
    return Removal(kind=kind, fingerprint=fingerprint, size_bytes=size_bytes, reason=reason)


def _size_bytes(root: Root, folder: str) -> int:
    return sum(info.size or 0 for info in root.children(folder, recursive=True))


def _unfinished(root: Root, cards: _Cards, oldest: datetime) -> Iterator[Removal]:
    """Find folders without a card that nobody has written to since `oldest`."""
    for kind in KINDS:
        for folder in root.children(kind):
            name = folder.base_name
            if folder.is_file or not is_name(name) or (kind, name) in cards:
                continue
            files = [info for info in root.children(f"{kind}/{name}") if info.is_file]
            if files and all(info.mtime < oldest for info in files):
                yield _removal(root, kind, name, "it was never finished")


def _named_and_best(root: str, interest: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Return the generators that rows name, and those that are best on some terms."""
    reader = Reader(root)
    rows = reader.evaluations(**interest)
    if interest and rows.empty:
        raise StorageError(
            f"no evaluation under {root} has {dict(interest)}, so nothing would be kept; ask for others."
        )
    cells = summarise(rows[may_choose(rows)])
    best = cells.loc[cells.groupby(TERMS, dropna=False)["validation_mean"].idxmax()]["generator"]
    named = set(rows["generator"].dropna())
    if not interest:
        named |= set(reader.trials()["generator"].dropna()) | set(reader.validations()["generator"])
    return named, set(best)
