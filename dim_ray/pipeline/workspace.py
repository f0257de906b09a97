"""A configuration with its data set and storage."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from dim_ray.config import Config
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.training.memory import keep_freed_memory
from dim_ray.core.training.precision import prepare_cuda
from dim_ray.start.threads import idle_cores
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["Workspace", "dataset_card", "on_device"]

_SMALL_IMAGE = 8  # pixels; measured (docs/benchmarks.md)


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A configuration, its data set in memory, and the name of its study."""

    config: Config
    dataset: Dataset
    study: str
    """Name for rows and checkpoints."""

    @property
    def artifacts(self) -> ArtifactStore:
        """Teachers, priors and generators."""
        return ArtifactStore(self.config.storage.root)


def on_device(
    work: Workspace, num_threads: int | None = None, *, gpus: float = 1.0, device: torch.device | str = "cuda"
) -> Workspace:
    """Prepare this process for training: CPU threads, memory, and the data on its GPU, if any.

    PyTorch has by default, unless OMP_NUM_THREADS says, a thread for each idle core, and a single one for images so
    small that more would only wait for each other. `gpus` is 0 if others hold the GPUs that this process sees, and
    below 1 if they share its GPU.
    """
    if num_threads is None and not os.environ.get("OMP_NUM_THREADS"):
        num_threads = 1 if work.dataset.image_size <= _SMALL_IMAGE else idle_cores()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    keep_freed_memory()
    if gpus == 0 or not torch.cuda.is_available():
        return work
    prepare_cuda(deterministic=work.config.study.deterministic)
    torch.cuda.empty_cache()  # what an earlier job of this process has freed
    if gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus, device)
    return replace(work, dataset=work.dataset.to(device))


def dataset_card(dataset: Dataset) -> dict[str, Any]:
    """Return the data set's part of an artefact's card."""
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "class_names": list(dataset.class_names),
        "num_channels": dataset.num_channels,
        "image_size": dataset.image_size,
        "mean": list(dataset.normalisation.mean),
        "std": list(dataset.normalisation.std),
    }
