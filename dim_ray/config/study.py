"""The sections `study` and `storage`: the search, what it may use, and where everything is kept."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dim_ray.config.checks import (
    require,
    require_distinct,
    require_name,
    require_not_negative,
    require_positive,
    require_range,
    require_seed,
)
from dim_ray.config.space import Choice, assignments, read_space
from dim_ray.errors import ConfigError, nearest

__all__ = [
    "LOGGERS",
    "OBJECTIVES",
    "SAMPLERS",
    "SCHEDULERS",
    "Logger",
    "Objective",
    "Sampler",
    "Scheduler",
    "StorageConfig",
    "StudyConfig",
]

Sampler = Literal["tpe", "gp", "nsga2", "qmc", "random", "grid"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)
Scheduler = Literal["asha", "hyperband", "median", "none"]
SCHEDULERS: tuple[str, ...] = get_args(Scheduler)
Objective = Literal["accuracy", "generator_bytes", "device_seconds"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
Logger = Literal["tensorboard", "mlflow", "wandb"]
LOGGERS: tuple[str, ...] = get_args(Logger)

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")


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
    seeds: tuple[int, ...] = ()
    """Seeds of matching to choose from, each a trial of its own in a grid. Default: matching.seed alone."""
    space: dict[str, Any] = field(default_factory=dict)
    """More fields to choose, such as {matching.kind: [logit_means, features], matching.learning_rate: {low: 1e-4, high:
    1e-3, log: true}}; docs/search.md has conditions, too."""
    max_generator_bytes: int | None = None
    """Largest file of a generator that is searched. Default: any."""
    sampler: Sampler = "tpe"
    """Who chooses the next trial: tpe, gp (Gaussian process), nsga2, qmc (Sobol's sequence), random, or grid."""
    grid_points: int = 3
    """Values of each range in a grid, evenly spaced on its scale; one where lowest and highest are the same."""
    scheduler: Scheduler = "asha"
    """Who stops weak trials at the rungs: asha, hyperband (asha in brackets, of which some stop later), median (below
    the median of the others), or none."""
    warm_start: tuple[str, ...] = ()
    """Studies of the storage, or data sets whose studies are all meant, from whose trials the search begins."""
    warm_start_trials: int = 4
    """Configurations of those trials, the best ones, that are tried first."""
    objectives: tuple[Objective, ...] = ("accuracy",)
    """What the search is for: accuracy, alone or with generator_bytes (of its file) and device_seconds (of its
    teachers, its prior and its distillation), which are to be small."""
    selection_images_per_class: tuple[int, ...] = (10,)
    """IPCs of the on-the-fly students whose mean validation accuracy is the objective."""
    selection_seeds: int = 1
    """Students for each of these IPCs, whose validation accuracies are averaged at each rung."""
    contenders: int = field(default=3, metadata={"place": True})
    """Trials, the best that completed, between which more students decide after the search; 1: the search decides."""
    contender_seeds: int = field(default=5, metadata={"place": True})
    """Students for each of them and IPC, besides the search's; a larger number goes on where they aren't told apart."""
    grace_epochs: int = 1
    """Matching epochs before the first rung; as many as matching.epochs stop no trial."""
    reduction_factor: int = 3
    """Epochs of a rung to those of the one before; with asha and hyperband, one trial in this many goes on."""
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
    loggers: tuple[Logger, ...] = field(default=("tensorboard",), metadata={"place": True})
    """Who is shown the trials' curves and parameters: tensorboard, mlflow, wandb (Weights & Biases), or nobody: []."""
    time_budget: str | None = field(default=None, metadata={"place": True})
    """Time, such as 90s, 30m or 2h, from when the data are loaded, after which no trial begins and running ones end at
    their next rung; the same command goes on with them. Default: no limit."""

    def __post_init__(self) -> None:
        if self.name is not None:
            require_name("study.name", self.name)
        require_positive(
            "study", self, "num_trials", "selection_seeds", "grace_epochs", "workers_per_trial", "cpus_per_worker",
            "grid_points", "warm_start_trials", "contenders",
        )  # fmt: skip
        require(self.contender_seeds >= 2, "study.contender_seeds", self.contender_seeds, "2 or more")
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
        for name in ("pool_sizes", "capacities", "selection_images_per_class"):
            values = getattr(self, name)
            require(len(values) > 0 and min(values) > 0, f"study.{name}", values, "at least one number, all above 0")
        require_distinct("study.selection_images_per_class", self.selection_images_per_class)
        require_range("study.matching_weights", self.matching_weights)
        require_range("study.adversarial_weights", self.adversarial_weights)
        read_space(self.space)
        if self.max_generator_bytes is not None:
            require_positive("study", self, "max_generator_bytes")
        require_seed("study.seed", self.seed)
        for seed in self.seeds:
            require_seed("study.seeds", seed)
        require_distinct("study.seeds", self.seeds)
        for name, known in (("sampler", SAMPLERS), ("scheduler", SCHEDULERS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"study.{name} is {value!r}, which is unknown; {nearest(value, known)}")
        for field_name, those in (("objectives", OBJECTIVES), ("loggers", LOGGERS)):
            values = getattr(self, field_name)
            for name in values:
                if name not in those:
                    raise ConfigError(f"study.{field_name} has {name!r}, which is unknown; {nearest(name, those)}")
            require_distinct(f"study.{field_name}", values)
        for name in self.warm_start:
            require_name("study.warm_start", name)
        self._check_objectives()
        self._check_grid()
        budget = self.time_budget
        require(
            budget is None or (_DURATION.fullmatch(budget) is not None and float(budget[:-1]) > 0),
            "study.time_budget",
            budget,
            "a number above 0 and s, m or h, such as 90s, 30m or 2h",
        )

    @property
    def time_budget_seconds(self) -> float | None:
        """The time budget in seconds; None where there is no limit."""
        return None if self.time_budget is None else float(self.time_budget[:-1]) * _SECONDS[self.time_budget[-1]]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What `space` says, those with a condition last."""
        return tuple(read_space(self.space).values())

    @property
    def num_grid_trials(self) -> int:
        """Trials that a grid over the space has."""
        weights = [
            1 if low == high else self.grid_points for low, high in (self.matching_weights, self.adversarial_weights)
        ]
        lists = (self.pool_sizes, self.capacities, self.seeds or (0,))
        combinations = sum(1 for _ in assignments(self.choices, lambda choice: choice.points(self.grid_points)))
        return math.prod([*weights, *(len(set(values)) for values in lists), combinations])

    @property
    def num_contender_students(self) -> int:
        """Students that decide between contenders, at the most, for each IPC."""
        num_contenders = min(self.contenders, self.num_trials)
        return num_contenders * self.contender_seeds if num_contenders > 1 else 0

    def _check_objectives(self) -> None:
        require("accuracy" in self.objectives, "study.objectives", self.objectives, "accuracy, and others beside it")
        if len(self.objectives) > 1 and self.scheduler != "none":
            raise ConfigError(
                f"study.scheduler is {self.scheduler!r}, but study.objectives is {' '.join(self.objectives)}: a "
                "scheduler compares accuracies alone, and would stop the small generators that are sought, too; set "
                "--study.scheduler none."
            )

    def _check_grid(self) -> None:
        if self.sampler != "grid":
            return
        weights = (self.matching_weights, self.adversarial_weights)
        has_range = any(low != high for low, high in weights) or any(not choice.values for choice in self.choices)
        if has_range and self.grid_points == 1:
            raise ConfigError(
                "study.grid_points is 1, but a parameter has a range; set --study.grid_points to 2 or more, or give "
                "one value in place of the range."
            )
        if self.num_trials > self.num_grid_trials:
            raise ConfigError(
                f"study.num_trials is {self.num_trials}, but the grid has {self.num_grid_trials} trials; set "
                f"--num-trials to {self.num_grid_trials} or less, or widen the space."
            )
        if self.warm_start:
            raise ConfigError(
                f"study.warm_start is {' '.join(self.warm_start)}, but study.sampler is 'grid', which runs through its "
                "trials whatever others led to; leave one of them out."
            )


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
