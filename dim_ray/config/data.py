"""The section `data`: real images, their source and their splits."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dim_ray.config.checks import require, require_name, require_seed
from dim_ray.config.names import path_name, plain_name
from dim_ray.errors import ConfigError, DimError, nearest

__all__ = ["DATASETS", "IMAGE_SIZES", "DataConfig", "stored_label"]

DATASETS = ("digits", "mnist", "fashion_mnist", "svhn", "cifar10", "cifar100")
_ON_HUB = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "svhn": "ufldl-stanford/svhn",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
DATASET_PREFIXES = ("parquet:", "folder:", "hf:")
IMAGE_SIZES = range(8, 65)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Real images: their source and their splits."""

    dataset: str = "digits"
    """A known name (digits, mnist, fashion_mnist, svhn, cifar10, cifar100), parquet:PATH, folder:PATH, or on the
    Hugging Face Hub hf://datasets/ORG/NAME."""
    name: str | None = None
    """Name of the dataset in rows. Default: the known name, or the last part of PATH."""
    data_root: str | None = field(default=None, metadata={"place": True})
    """Folder that has, or receives, the files of torchvision's datasets. Default: ~/.cache/dim_ray."""
    validation_fraction: float = 0.1
    """Share of each class of the training split that is held out for validation, in (0, 0.5]."""
    test_fraction: float = 0.2
    """Share of each class that becomes the test split if the source has none, in (0, 0.5]."""
    split_seed: int = 0
    """Seed of the splits."""

    def __post_init__(self) -> None:
        prefix, separator, path = self.dataset.partition(":")
        if separator:
            if f"{prefix}:" not in DATASET_PREFIXES:
                raise ConfigError(
                    f"data.dataset has the unknown prefix {prefix!r}; {nearest(f'{prefix}:', DATASET_PREFIXES)}"
                )
            require(bool(path), "data.dataset", self.dataset, f"a path behind {prefix!r}:")
            if prefix == "hf":
                is_address = re.match(r"//datasets/[^/]+/[^/]", path) is not None
                require(is_address, "data.dataset", self.dataset, "hf://datasets/ORG/NAME; @REVISION may follow")
        elif self.dataset not in DATASETS:
            hint = nearest(self.dataset, [*DATASETS, "parquet:PATH", "folder:PATH", "hf://datasets/ORG/NAME"])
            if os.path.isdir(self.dataset):  # false for what can't be a path, where Path raises
                hint = f"for the images of that folder write folder:{self.dataset}, for Parquet parquet:{self.dataset}."
            raise ConfigError(f"data.dataset is {self.dataset!r}, which is unknown; {hint}")
        if self.name is not None:
            require_name("data.name", self.name)
        require(0 < self.validation_fraction <= 0.5, "data.validation_fraction", self.validation_fraction, "(0, 0.5]")
        require(0 < self.test_fraction <= 0.5, "data.test_fraction", self.test_fraction, "(0, 0.5]")
        require_seed("data.split_seed", self.split_seed)

    @property
    def label(self) -> str:
        """The name under which rows are stored, if it doesn't belong to other data of the storage."""
        prefix, separator, path = self.dataset.partition(":")
        if prefix == "hf":
            path = re.sub("@[^#]*", "", path)  # the revision
        last = PurePosixPath(path.rstrip("/")).name if separator else prefix
        return path_name(self.name or plain_name(last, "data"), "data")

    @property
    def hub_name(self) -> str | None:
        """ORG/NAME of the same images on the Hugging Face Hub, as far as is known."""
        if self.dataset.startswith("hf:"):
            return "/".join(re.split("[/@#]", self.dataset)[3:5])
        return _ON_HUB.get(self.dataset)


def stored_label(config_json: str) -> str:
    """Return the label of the data in a trial's stored configuration, "" if this version can't read it."""
    try:
        return DataConfig(**json.loads(config_json)["data"]).label
    except (KeyError, TypeError, ValueError, DimError):
        return ""
