"""A configuration at work on a data set in a storage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from dim_ray.config import Config
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.training.memory import keep_freed_memory
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["Workspace", "dataset_card", "on_device"]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One configuration at work on one data set in one storage."""

    config: Config
    dataset: Dataset
    study: str
    """Name under which rows and checkpoints are kept."""

    @property
    def artifacts(self) -> ArtifactStore:
        """Teachers, priors and generators."""
        return ArtifactStore(self.config.storage.root)


def on_device(work: Workspace, num_threads: int | None = None, *, may_use_gpu: bool = True) -> Workspace:
    """Makes this process ready to train: its threads, its memory, and the data on its GPU where it has one.

    Args:
        work: With data on the CPU.
        num_threads: CPU threads that PyTorch may use; by default all cores.
        may_use_gpu: False where the GPUs that it sees are held by others.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    keep_freed_memory()
    return replace(work, dataset=work.dataset.to("cuda")) if may_use_gpu and torch.cuda.is_available() else work


def dataset_card(dataset: Dataset) -> dict[str, Any]:
    """Returns what an artefact's card says of its data set."""
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "class_names": list(dataset.class_names),
        "num_channels": dataset.num_channels,
        "image_size": dataset.image_size,
        "mean": list(dataset.normalisation.mean),
        "std": list(dataset.normalisation.std),
    }
