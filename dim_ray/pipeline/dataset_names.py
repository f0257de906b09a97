"""The name of a data set in a storage. It belongs to the data that first had it: `datasets/<name>/card.json`.

    config, dataset = with_own_name(config, dataset, progress.message)  # images, or images-3f2a91c4
    keep_name(config, dataset)

Data are others if images, labels, classes or the splits of their source differ; how the rest is split doesn't count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dim_ray.config import Config, DataConfig
from dim_ray.config.names import name_key, path_name, plain_name
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import UsageError
from dim_ray.store.artifacts import DATASETS, ArtifactStore
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.schema import EVALUATION_TABLE
from dim_ray.store.tables import read_rows

__all__ = ["keep_name", "with_own_name"]

_DIGEST_DIGITS = 8


def with_own_name(config: Config, dataset: Dataset, tell: Callable[[str], None]) -> tuple[Config, Dataset]:
    """Return a configuration and its data set, both with the name that the data have in the storage.

    `tell` is called with a sentence if that isn't the one that a person expects.

    Raises:
        UsageError: The configured name belongs to other data.
    """
    artifacts, given = ArtifactStore(config.storage.root), config.data.name
    usual = _usual_name(config.data)
    name, owner = _owned_name(artifacts, usual, config.data, dataset)
    if owner is not None and given is None:
        own = f"{usual}-{dataset.content_digest[:_DIGEST_DIGITS]}"
        tell(f"{usual} is the name of other data in {artifacts.root} ({owner}); these are {own}")
        name, owner = _owned_name(artifacts, own, config.data, dataset)
    if owner is not None:
        raise UsageError(
            f"data.name is {name!r}, which is the name of other data in {artifacts.root} ({owner}). Choose another one."
        )
    if given not in (None, name):
        tell(f"data.name is {given!r}; in rows and paths it is {name}")
    if given is not None or name != config.data.label:
        config = replace(config, data=replace(config.data, name=name))
    return config, replace(dataset, name=name)


def keep_name(config: Config, dataset: Dataset) -> None:
    """Write into the storage that the name belongs to these data, if it doesn't say so yet.

    Raises:
        UsageError: Another process has just taken the name for other data.
    """
    artifacts, key = ArtifactStore(config.storage.root), name_key(dataset.name)
    if not artifacts.exists(DATASETS, key):
        artifacts.write(DATASETS, key, {}, _card(config.data, dataset))
    card = artifacts.read_card(DATASETS, key)
    if card["digest"] != dataset.content_digest:
        raise UsageError(
            f"{dataset.name} has just become the name of other data in {artifacts.root} ({card['source']}). Run the "
            "same command again."
        )


def _owned_name(artifacts: ArtifactStore, name: str, config: DataConfig, dataset: Dataset) -> tuple[str, str | None]:
    """Return a name as rows have it, and the other data that have it; None if it's free or ours."""
    key = name_key(name)
    if artifacts.exists(DATASETS, key):
        card = artifacts.read_card(DATASETS, key)
        if card["digest"] != dataset.content_digest:
            return name, str(card["source"])
        return str(card["name"]), None  # capital letters may differ
    if config.name is None and ":" in config.dataset:  # rows from before there were cards
        rows = read_rows(open_root(artifacts.root), EVALUATION_TABLE, {"dataset": name}, ["data_fingerprint"])
        known = set(rows["data_fingerprint"].to_pylist())
        if known and dataset.digest not in known:
            return name, "rows of an earlier version"
    return name, None


def _usual_name(config: DataConfig) -> str:
    """Return the name that data have unless it belongs to others."""
    _, _, path = config.dataset.partition(":")
    if config.name is None and path.rstrip("/").rpartition("/")[2] in (".", "..", "~"):
        return path_name(plain_name(_resolved(path).name, "data"), "data")
    return config.label


def _card(config: DataConfig, dataset: Dataset) -> dict[str, Any]:
    prefix, _, path = config.dataset.partition(":")
    is_local = bool(path) and "://" not in config.dataset
    return {
        "name": dataset.name,
        "source": f"{prefix}:{_resolved(path)}" if is_local else config.dataset,
        "digest": dataset.content_digest,
        "class_names": list(dataset.class_names),
        "num_images": sum(map(len, (dataset.train, dataset.validation, dataset.test))),
        "num_channels": dataset.num_channels,
        "image_size": dataset.image_size,
    }


def _resolved(path: str) -> Path:
    return Path(path).expanduser().resolve()
