"""The data that a stored generator was made from, if they are on this machine.

dataset = stored_data(artifacts, card, data_root=None)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dim_ray.config import DATASETS, DataConfig
from dim_ray.config.names import name_key
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.errors import DimError
from dim_ray.store.artifacts import DATASETS as CARDS
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["stored_data"]


def stored_data(
    artifacts: ArtifactStore, card: Mapping[str, Any], *, data_root: str | None, only_known: bool = False
) -> Dataset | None:
    """Return the data of a generator's card with its splits; None if they aren't here or have changed.

    Nothing is downloaded. With `only_known`, only data that are known by name, which are public, are read.
    """
    name, digest = card["dataset"]["name"], card["dataset"]["digest"]
    try:
        key = name_key(name)
        source = artifacts.read_card(CARDS, key)["source"] if artifacts.exists(CARDS, key) else name
        if only_known and source not in DATASETS:
            return None
        config = DataConfig(dataset=source, name=name, data_root=data_root, **card.get("splits", {}))
        dataset = load_dataset(config, may_download=False)
    except (DimError, TypeError):  # TypeError: splits of another version
        return None
    return dataset if dataset.digest == digest else None
