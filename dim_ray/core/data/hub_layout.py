"""Which Parquet files are which split, by the rules of the Hugging Face hub.

    layout = plan_layout(["data/train/0000.parquet", "data/test/0000.parquet"], {}, subset=None, where="mnist")
    layout.splits["test"]

The first that fits decides: the configurations in README.md's metadata; data/NAME-00000-of-00003.parquet; a folder's,
then a file's name with a word for a split. Otherwise everything is for training. Source: the Hub's documentation, "Data
files configuration" and "File names and splits". Unlike there, a file that fits two splits is refused, files beside the
folders of splits are read, and folders side by side that README.md doesn't explain are taken for configurations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fsspec.utils import glob_translate

from dim_ray.core.data.split_names import ROLES, SPLIT_WORDS, role_of, roles_in
from dim_ray.core.data.tree import remark
from dim_ray.errors import DataError, listed, nearest

__all__ = ["LOOKED_FOR", "Layout", "plan_layout"]

LOOKED_FOR = f"names with {listed(words[0] for words in SPLIT_WORDS.values())}, such as train-00000-of-00002.parquet"

_SHARDED_DATA = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*")
_SHARD = re.compile(r"(.*?)(\d+)([-_]of[-_])(\d+)([-_.].*)?\.parquet", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*/)?(\d{4,5})\.parquet", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of a data set and what its README.md says of them."""

    splits: dict[str, list[str]]
    """Files of `train`, and of `validation` and `test` if there are any."""
    num_rows: dict[str, int] = field(default_factory=dict)
    """Number of rows that README.md promises for a split."""
    class_names: dict[str, list[str]] = field(default_factory=dict)
    """Class names that README.md gives for a column."""
    remarks: list[str] = field(default_factory=list)
    """As in `Source.remarks`."""


def plan_layout(names: Sequence[str], card: Mapping[str, Any], *, subset: str | None, where: str) -> Layout:
    """Deal the Parquet files of the folder `where` to splits.

    Names are relative to the folder and sorted. The card is README.md's metadata, and `subset` names one of several
    configurations.

    Raises:
        DataError: There is nothing to train on, a shard is missing, a file fits two splits, or several configurations
            fit.
    """
    configurations = {str(one.get("config_name")): one for one in _dictionaries(card, "configs", where)}
    if configurations:
        chosen = _choose(configurations, subset, where, card_says=True)
        splits = _declared_splits(names, configurations[chosen], where)
        others = [name for name in configurations if name != chosen]
    else:
        folders = _configuration_folders(names)
        chosen = _choose(folders, subset, where, card_says=False) if subset or len(folders) > 1 else ""
        splits = _usual_splits(folders[chosen] if chosen else names, f"{chosen}/" if chosen else "", where)
        others = [name for name in folders if chosen and name != chosen]
    roles, unknown = _roles(splits, where)
    used = [name for files in roles.values() for name in files]
    _check_shards(used, where)
    infos = [one for one in _dictionaries(card, "dataset_info", where) if one.get("config_name", chosen) == chosen]
    known = {*used, *(name for split in unknown for name in splits[split])}
    left = [] if others else [name for name in names if name not in known]
    return Layout(
        splits=roles,
        num_rows=_promised_rows(infos, splits),
        class_names=_given_names(infos),
        remarks=[
            *remark("other configurations left out", others),
            *remark("other splits left out", unknown),
            *remark("Parquet files of no split left out", left),
        ],
    )


def _dictionaries(card: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found = card.get(key) or []
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"{key} in the metadata of {where}/README.md is no list of mappings. Correct or remove it.")
    return found


def _choose(configurations: Mapping[str, Any], subset: str | None, where: str, *, card_says: bool) -> str:
    if subset is not None:
        if subset in configurations:
            return subset
        raise DataError(
            f"{where} has no configuration {subset!r}; {nearest(subset, configurations)}"
            if configurations
            else f"{where} has no configurations. Leave #{subset} out."
        )
    if len(configurations) == 1:
        return next(iter(configurations))
    defaults = [name for name, own in configurations.items() if card_says and (own.get("default") or name == "default")]
    if len(defaults) == 1:
        return defaults[0]
    raise DataError(
        f"{where} has {len(configurations)} configurations: {listed(configurations, most=10)}. Choose one behind the "
        f"path: --dataset parquet:...#{next(iter(configurations))}"
    )


def _configuration_folders(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each folder that may be a configuration: several side by side, and no other files."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[name.partition("/")[0] if "/" in name else ""].append(name)
    if "" in folders or any(map(roles_in, folders)) or any(map(_SHARDED_DATA.fullmatch, names)):
        return {}
    return dict(folders)


def _declared_splits(names: Sequence[str], configuration: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    """Return the files of each split that README.md declares."""
    prefix = str(configuration.get("data_dir") or "").strip("./")
    prefix = f"{prefix}/" if prefix else ""
    declared = configuration.get("data_files")
    if declared is None:
        return _usual_splits([name for name in names if name.startswith(prefix)], prefix, where)
    parts = [declared] if isinstance(declared, str) else declared
    splits: dict[str, list[str]] = {}
    for part in parts:
        own = part if isinstance(part, dict) else {"split": "train", "path": part}
        paths = own.get("path")
        files = splits.setdefault(str(own.get("split")), [])
        for path in [paths] if isinstance(paths, str) else paths or []:
            pattern = re.compile(glob_translate(prefix + str(path).removeprefix("./")))
            matching = [name for name in names if pattern.fullmatch(name)]
            if not matching:
                raise DataError(
                    f"{where}/README.md declares the files {path}, but there are none. Download the data set again, or "
                    "correct its metadata."
                )
            files += [name for name in matching if name not in files]
    return splits


def _usual_splits(names: Sequence[str], prefix: str, where: str) -> dict[str, list[str]]:
    """Return the files of each split by their names, which begin with `prefix`."""
    splits: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if match := _SHARDED_DATA.fullmatch(name.removeprefix(prefix)):
            splits[match[1]].append(name)
    if splits:
        return splits
    for name in names:
        folder, _, own = name.removeprefix(prefix).rpartition("/")
        found = set().union(*map(roles_in, folder.split("/"))) or roles_in(own)
        if len(found) > 1:
            raise DataError(
                f"{where}/{name} would be in the splits {' and '.join(sorted(found))}. Rename it or its folder, or "
                "give the folder that it is in."
            )
        for role in found:
            splits[role].append(name)
    return splits or {"train": list(names)}


def _roles(splits: Mapping[str, Sequence[str]], where: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the files of training, validation and test, and the names of all other splits."""
    if len(splits) == 1 and role_of(next(iter(splits))) is None:
        return {"train": list(*splits.values())}, []
    roles: dict[str, str] = {}
    for split in splits:
        role = role_of(split)
        if role is not None and roles.setdefault(role, split) != split:
            raise DataError(
                f"{where} has the splits {roles[role]} and {split}, and each would be its {role} split. Keep one."
            )
    if "train" not in roles:
        raise DataError(
            f"{where} has no training split among {listed(sorted(n for s in splits.values() for n in s))}; looked for "
            f"{LOOKED_FOR}. Rename the files."
        )
    return (
        {role: list(splits[roles[role]]) for role in ROLES if role in roles},
        [split for split in splits if split not in roles.values()],
    )


def _check_shards(names: Iterable[str], where: str) -> None:
    """Refuse sets of shards with a gap, or with two files for one place."""
    sets: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    numbered: dict[str, list[int]] = defaultdict(list)
    for name in names:
        if match := _SHARD.fullmatch(name):
            sets[match[1]][match[4]].append(match[2])
        elif match := _NUMBERED.fullmatch(name):
            numbered[match[1] or ""].append(int(match[2]))
    for stem, totals in sets.items():
        if len(totals) > 1:
            raise DataError(
                f"{where} has two sets of files {stem}*, of {' and of '.join(str(int(total)) for total in totals)}. "
                "Keep the newer one."
            )
        for total, numbers in totals.items():
            if len(set(numbers)) < len(numbers):
                raise DataError(f"{where} has two files for one shard of {stem}*-of-{total}. Keep the newer ones.")
            if len(numbers) != int(total):
                raise DataError(
                    f"{where} has {len(numbers)} of the {int(total)} files {stem}*-of-{total}. Add the missing ones."
                )
    for folder, places in numbered.items():
        missing = sorted({*range(max(places) + 1)} - {*places})
        if missing and 0 in places:
            raise DataError(
                f"{where}/{folder}{missing[0]:04}.parquet is missing, though there is {max(places):04}.parquet. Add it."
            )


def _promised_rows(infos: Iterable[Mapping[str, Any]], splits: Iterable[str]) -> dict[str, int]:
    promised = {
        str(split["name"]): int(split["num_examples"])
        for info in infos
        for split in info.get("splits") or []
        if "name" in split and "num_examples" in split
    }
    return {role: promised[split] for split in splits if split in promised and (role := role_of(split))}


def _given_names(infos: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the names of class labels: a list, or a mapping of numbers to names."""
    given = {}
    for info in infos:
        for feature in info.get("features") or []:
            kind = feature.get("dtype") if isinstance(feature, dict) else None
            names = kind.get("class_label", {}).get("names") if isinstance(kind, dict) else None
            if names:
                given[str(feature["name"])] = [
                    str(name) for name in (names.values() if isinstance(names, dict) else names)
                ]
    return given
