"""The sections `study` and `storage`: the search, what it may use, and where everything is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dim_ray.config.checks import (
    require,
    require_name,
    require_not_negative,
    require_positive,
    require_range,
    require_seed,
)

__all__ = ["StorageConfig", "StudyConfig"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The search: its space, its rungs and what a trial may use."""

    name: str | None = field(default=None, metadata={"place": True})
    """Name of the study. By default the data set's name and the configuration's fingerprint."""
    num_trials: int = field(default=16, metadata={"place": True})
    """Trials in all; a larger number extends a study."""
    pool_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Pool sizes to choose from."""
    capacities: tuple[int, ...] = (64, 128, 196)
    """Generator capacities to choose from."""
    matching_weights: tuple[float, float] = (1e-3, 1.0)
    """Lowest and highest matching weight, searched on a logarithmic scale."""
    adversarial_weights: tuple[float, float] = (0.1, 10.0)
    """Lowest and highest adversarial weight, searched on a logarithmic scale."""
    selection_images_per_class: int = 10
    """IPC of the on-the-fly student whose validation accuracy is the objective."""
    selection_seeds: int = 1
    """Students whose validation accuracies are averaged at each rung."""
    grace_epochs: int = 1
    """Matching epochs before the first rung of ASHA; as many as matching.epochs stop no trial."""
    reduction_factor: int = 3
    """Of ASHA: one trial in this many goes on from each rung."""
    seed: int = 0
    """Of the sampler."""
    workers_per_trial: int = 1
    """Workers that share one distillation; above 1 they run under Ray Train."""
    cpus_per_worker: int = field(default=1, metadata={"place": True})
    """CPU cores of one worker."""
    gpus_per_worker: float | None = field(default=None, metadata={"place": True})
    """GPUs of one worker. Default: 1 where the cluster has GPUs, otherwise 0."""
    max_concurrent: int | None = field(default=None, metadata={"place": True})
    """Trials at a time. Default: as many as the resources hold."""
    max_failures: int = field(default=1, metadata={"place": True})
    """How often a trial whose process died goes on from its last checkpoint before it counts as failed."""

    def __post_init__(self) -> None:
        if self.name is not None:
            require_name("study.name", self.name)
        require_positive(
            "study", self, "num_trials", "selection_images_per_class", "selection_seeds", "grace_epochs",
            "workers_per_trial", "cpus_per_worker",
        )  # fmt: skip
        require(self.max_failures >= 0, "study.max_failures", self.max_failures, "0 or more")
        if self.max_concurrent is not None:
            require_positive("study", self, "max_concurrent")
        require(self.reduction_factor >= 2, "study.reduction_factor", self.reduction_factor, "2 or more")
        gpus = self.gpus_per_worker
        require(
            gpus is None or (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or float(gpus).is_integer())),
            "study.gpus_per_worker",
            gpus,
            "0 or more, and above 1 a whole number",
        )
        for where, values in (("study.pool_sizes", self.pool_sizes), ("study.capacities", self.capacities)):
            require(len(values) > 0 and min(values) > 0, where, values, "at least one number, all above 0")
        require_range("study.matching_weights", self.matching_weights)
        require_range("study.adversarial_weights", self.adversarial_weights)
        require_seed("study.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where everything is kept."""

    root: str = field(default="./dim_storage", metadata={"place": True})
    """Folder, s3:// or gs:// URI."""
    checkpoint_seconds: float = field(default=60.0, metadata={"place": True})
    """Seconds between checkpoints of a running stage, which goes on while they are written."""

    def __post_init__(self) -> None:
        require(bool(self.root.strip()), "storage.root", self.root, "a folder or a URI")
        require_not_negative("storage", self, "checkpoint_seconds")
