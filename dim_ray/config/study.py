"""The sections `study` and `storage`: the search, what it may use, and where everything is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from dim_ray.config.checks import (
    require,
    require_distinct,
    require_known,
    require_name,
    require_not_negative,
    require_positive,
    require_seed,
)
from dim_ray.config.space import SEED, Choice, assignments, read_space
from dim_ray.errors import ConfigError, listed

__all__ = ["OBJECTIVES", "SAMPLERS", "SCHEDULERS", "Sampler", "Scheduler", "StorageConfig", "StudyConfig"]

Sampler = Literal["tpe", "gp", "nsga2", "qmc", "random", "grid"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
Scheduler = Literal["asha", "hyperband", "median", "none"]
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)
Objective = Literal["accuracy", "generator_bytes", "device_seconds"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
Logger = Literal["tensorboard", "mlflow", "wandb"]

_LEAST_AT_RUNGS = 3  # by one student, weak trials and good ones are hardly told apart
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


def _default_space() -> dict[str, Any]:
    return {
        "pool.size": [1, 2, 4, 8, 16],
        "generator.capacity": [64, 128, 196],
        "matching.weight": {"low": 0.03, "high": 3.0, "log": True},
        "matching.adversarial_weight": {"low": 0.1, "high": 10.0, "log": True},
    }


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The search: its space, its rungs and what a trial may use."""

    name: str | None = field(default=None, metadata={"place": True})
    """Name of the study. Default: the dataset's name and the configuration's fingerprint."""
    num_trials: int = field(default=16, metadata={"place": True})
    """Trials in all; a larger number extends a study."""
    space: dict[str, Any] = field(default_factory=_default_space)
    """Fields to search, each with a list of values or a range, such as {pool.size: [1, 2, 4], matching.weight: {low:
    0.01, high: 1.0, log: true}}; for conditions see docs/search.md. The others keep their configured values."""
    max_generator_bytes: int | None = None
    """Largest generator file to search. Default: any."""
    sampler: Sampler = "tpe"
    """How trials are chosen: tpe, gp (Gaussian process), nsga2, qmc (Sobol's sequence), random, or grid."""
    grid_points: int = 3
    """Values of each range in a grid, evenly spaced on its scale."""
    scheduler: Scheduler = "asha"
    """What stops weak trials at rungs: asha, hyperband (asha in brackets, some of which stop later), median (below the
    median of the others), or none."""
    warm_start: tuple[str, ...] = ()
    """Studies of the storage, or datasets for all of their studies, from whose trials the search begins."""
    warm_start_trials: int = 4
    """Number of their best configurations to try first."""
    objectives: tuple[Objective, ...] = ("accuracy",)
    """Objectives: accuracy, and optionally generator_bytes (its file) and device_seconds (its teachers, prior and
    distillation), both minimised."""
    selection_images_per_class: tuple[int, ...] = (10,)
    """IPCs of the on-the-fly students whose mean validation accuracy is the objective."""
    selection_seeds: int = 1
    """Students for each of these IPCs, averaged; at rungs at least 3."""
    contenders: int = field(default=3, metadata={"place": True})
    """Best completed trials, between which more students decide after the search; 1: the search decides."""
    contender_seeds: int = field(default=5, metadata={"place": True})
    """Additional students for each contender and IPC; raise it later to separate close contenders."""
    control: bool = field(default=True, metadata={"place": True})
    """Whether the best trial is compared with its control: the same prior and epochs without matching."""
    grace_epochs: int = 1
    """Fewest matching epochs before the first rung, which also waits until the generator's moving average has forgotten
    its prior. As many as matching.epochs stop no trial."""
    reduction_factor: int = 3
    """Ratio of successive rungs' epochs; asha and hyperband keep one trial in this many."""
    seed: int = 0
    """Seed of the sampler."""
    workers_per_trial: int = 1
    """Workers that share one distillation; above 1 they run under Ray Train."""
    cpus_per_worker: int = field(default=1, metadata={"place": True})
    """CPU cores of one worker."""
    gpus_per_worker: float | None = field(default=None, metadata={"place": True})
    """GPUs of one worker, at most 1; with a part of one, workers share it and its memory. Default: 1 if the cluster has
    GPUs, otherwise 0."""
    deterministic: bool = field(default=False, metadata={"place": True})
    """Whether GPUs only use algorithms that always give the same bits, which are slower; CPUs always do."""
    max_concurrent: int | None = field(default=None, metadata={"place": True})
    """Concurrent trials. Default: as many as the resources hold."""
    max_failures: int = field(default=1, metadata={"place": True})
    """Times that a failed trial resumes from its last checkpoint until it counts as failed; lost nodes are free."""
    loggers: tuple[Logger, ...] = field(default=("tensorboard",), metadata={"place": True})
    """Loggers of the trials' curves and parameters: tensorboard, mlflow, wandb (Weights & Biases); [] for none."""
    time_budget: str | None = field(default=None, metadata={"place": True})
    """Time budget, such as 90s, 30m or 2h, from when the data are loaded; then no trial begins, and running ones end at
    their next rung. The same command resumes them. Default: no limit."""

    def __post_init__(self) -> None:
        if self.name is not None:
            require_name("study.name", self.name)
        require_positive(
            "study", self, "num_trials", "selection_seeds", "grace_epochs", "workers_per_trial", "cpus_per_worker",
            "grid_points", "warm_start_trials", "contenders", "max_concurrent", "max_generator_bytes",
        )  # fmt: skip
        require(self.contender_seeds >= 2, "study.contender_seeds", self.contender_seeds, "2 or more")
        require_not_negative("study", self, "max_failures")
        require(self.reduction_factor >= 2, "study.reduction_factor", self.reduction_factor, "2 or more")
        gpus = self.gpus_per_worker
        require(gpus is None or 0 <= gpus <= 1, "study.gpus_per_worker", gpus, "0 to 1, because a worker uses one GPU")
        if gpus is not None and 0 < gpus < 1 and self.workers_per_trial > 1:
            raise ConfigError(
                f"study.gpus_per_worker is {gpus:g}, but study.workers_per_trial is {self.workers_per_trial}: workers "
                "of a trial can't share a GPU. Set --study.gpus_per_worker 1, or --workers-per-trial 1."
            )
        ipcs = self.selection_images_per_class
        require(
            len(ipcs) > 0 and min(ipcs) > 0,
            "study.selection_images_per_class",
            ipcs,
            "at least one number, all above 0",
        )
        require_distinct("study.selection_images_per_class", ipcs)
        require_seed("study.seed", self.seed)
        require_known("study", self)
        for name in self.warm_start:
            require_name("study.warm_start", name)
        self._check_objectives()
        self._check_sampler()
        duration = self.time_budget
        require(
            duration is None or (_DURATION.fullmatch(duration) is not None and float(duration[:-1]) > 0),
            "study.time_budget",
            duration,
            "a number above 0 and s, m or h, such as 90s, 30m or 2h",
        )

    @property
    def time_budget_seconds(self) -> float | None:
        """The time budget in seconds; None without a limit."""
        return None if self.time_budget is None else float(self.time_budget[:-1]) * _SECONDS[self.time_budget[-1]]

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The choices of `space`, those with a condition last."""
        return read_space(self.space)

    @property
    def num_grid_trials(self) -> int:
        """Number of trials of a grid over the space."""
        return sum(1 for _ in assignments(self.choices, lambda choice: choice.points(self.grid_points)))

    @property
    def rung_seeds(self) -> int:
        """Students for each IPC that judge a trial at a rung before its end."""
        return self.selection_seeds if self.scheduler == "none" else max(_LEAST_AT_RUNGS, self.selection_seeds)

    @property
    def num_contender_students(self) -> int:
        """Largest number of students, for each IPC, that decide between contenders."""
        num_contenders = min(self.contenders, self.num_trials)
        return num_contenders * self.contender_seeds if num_contenders > 1 else 0

    def _check_objectives(self) -> None:
        require("accuracy" in self.objectives, "study.objectives", self.objectives, "accuracy, and others beside it")
        if len(self.objectives) > 1 and self.scheduler != "none":
            raise ConfigError(
                f"study.scheduler is {self.scheduler!r}, but study.objectives is {' '.join(self.objectives)}: a "
                "scheduler compares only accuracies and would stop small generators. Set --study.scheduler none."
            )

    def _check_sampler(self) -> None:
        choices = self.choices
        if self.sampler != "grid":
            if any(choice.field == SEED for choice in choices):
                raise ConfigError(
                    f"study.space has {SEED}, but study.sampler is {self.sampler!r}: a search must not hunt for lucky "
                    f"seeds. Set --study.sampler grid, or leave {SEED} out of study.space."
                )
            return
        if self.grid_points == 1 and any(not choice.values for choice in choices):
            raise ConfigError(
                "study.grid_points is 1, but study.space has a range. Set --study.grid_points to 2 or more, or list "
                "values in place of the range."
            )
        if self.num_trials > self.num_grid_trials:
            raise ConfigError(
                f"study.num_trials is {self.num_trials}, but the grid has {self.num_grid_trials} trials. Set "
                f"--num-trials to {self.num_grid_trials} or less, or widen study.space."
            )
        if self.warm_start:
            raise ConfigError(
                f"study.warm_start is {listed(self.warm_start)}, but study.sampler is 'grid', which runs all of its "
                "trials anyway. Leave one of them out."
            )


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """Where everything is stored."""

    root: str = field(default="./dim_storage", metadata={"place": True})
    """Folder, s3:// or gs:// URI."""
    checkpoint_seconds: float = field(default=60.0, metadata={"place": True})
    """Seconds between checkpoints of a running stage, which are written while it trains."""

    def __post_init__(self) -> None:
        require(bool(self.root.strip()), "storage.root", self.root, "a folder or a URI")
        require_not_negative("storage", self, "checkpoint_seconds")
