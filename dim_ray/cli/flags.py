"""Short flags of the commands for fields of the configuration, and arguments that several commands share.

[flag.name for flag in TUNE_FLAGS]  # ["--dataset", "--data-root", "--storage", ...]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from dim_ray.config import Config
from dim_ray.errors import UsageError

__all__ = [
    "COMMON_FLAGS",
    "DEFAULT_STUDY",
    "DISTILL_FLAGS",
    "DOCTOR_FLAGS",
    "EVALUATE_FLAGS",
    "POOL_FLAGS",
    "QUIRKS_FLAGS",
    "TUNE_FLAGS",
    "Flag",
    "add_generator",
    "add_local",
    "check_local",
    "shipped_studies",
]

DEFAULT_STUDY = Path(__file__).parents[2] / "tuning" / "studies" / "digits.yaml"
"""The configuration of a command without --config; installed beside this package."""


@dataclass(frozen=True)
class Flag:
    """A short flag for a field of the configuration."""

    name: str
    """For example --dataset."""
    field: str
    """For example data.dataset."""
    help: str
    """One line, to which the default is added."""
    all_values: str | None = None
    """Extra argument that receives all values; the field gets the first. Default: the flag takes one value."""


_WORKERS = Flag("--workers", "study.workers_per_trial", "workers that share the work; above 1 they run under Ray Train")
COMMON_FLAGS: tuple[Flag, ...] = (
    Flag(
        "--dataset",
        "data.dataset",
        "digits, mnist, fashion_mnist, svhn, cifar10, cifar100, parquet:PATH, hf://datasets/ORG/NAME or folder:PATH",
    ),
    Flag("--data-root", "data.data_root", "torchvision's files (default: ~/.cache/dim_ray)"),
    Flag("--storage", "storage.root", "where everything is kept: a folder, or an s3:// or gs:// URI"),
)
TUNE_FLAGS: tuple[Flag, ...] = (
    replace(COMMON_FLAGS[0], help=f"{COMMON_FLAGS[0].help}; several get a study each", all_values="datasets"),
    *COMMON_FLAGS[1:],
    Flag("--study", "study.name", "name of the study, to continue it later (default: by configuration)"),
    Flag("--num-trials", "study.num_trials", "trials in total; a larger number extends a study"),
    Flag("--ipc", "evaluation.images_per_class", "images per class to evaluate, one or more"),
    Flag(
        "--workers-per-trial",
        "study.workers_per_trial",
        "workers that share one distillation; above 1 they run under Ray Train",
    ),
    Flag("--max-concurrent", "study.max_concurrent", "trials at a time (default: as many as the resources hold)"),
    Flag(
        "--time-budget",
        "study.time_budget",
        "90s, 30m, 2h: then no trial starts, and running ones end at their next rung",
    ),
    Flag("--warm-start", "study.warm_start", "start with the best trials of these studies or datasets"),
)
DISTILL_FLAGS: tuple[Flag, ...] = (
    *COMMON_FLAGS,
    Flag("--capacity", "generator.capacity", "channels of the generator"),
    Flag("--pool-size", "pool.size", "teachers to match against"),
    Flag("--weight", "matching.weight", "weight of the matching loss"),
    _WORKERS,
)
POOL_FLAGS: tuple[Flag, ...] = (
    *COMMON_FLAGS,
    Flag("--size", "pool.size", "number of teachers; stored ones are not trained again"),
    Flag(
        "--architecture",
        "networks.teachers",
        "architectures of the teachers in turn, such as convnet3 resnet18 (all: --help-all)",
    ),
    Flag("--epochs", "pool.epochs", "epochs on real images"),
    _WORKERS,
)
DOCTOR_FLAGS: tuple[Flag, ...] = tuple(flag for flag in DISTILL_FLAGS if flag.name != "--weight")
EVALUATE_FLAGS: tuple[Flag, ...] = (
    *COMMON_FLAGS,
    Flag("--ipc", "evaluation.images_per_class", "images per class, one or more"),
    Flag(
        "--architecture",
        "networks.students",
        "one or more architectures of students, such as convnet3 resnet18_w32 (all: --help-all)",
    ),
    Flag("--protocol", "evaluation.protocols", "one or more protocols"),
    Flag("--num-seeds", "evaluation.num_seeds", "students per cell of the grid"),
)
QUIRKS_FLAGS: tuple[Flag, ...] = tuple(flag for flag in EVALUATE_FLAGS if flag.name != "--protocol")


def add_local(parser: argparse.ArgumentParser) -> None:
    """Add --local, for the commands that can run without Ray."""
    parser.add_argument("--local", action="store_true", help="run in this process, without Ray")


def check_local(config: Config, *, is_local: bool) -> None:
    """Raise a `UsageError` if --local comes with several workers."""
    if is_local and config.study.workers_per_trial > 1:
        raise UsageError(
            f"--local is one process, but --workers is {config.study.workers_per_trial}; leave one of them out."
        )


def shipped_studies() -> dict[str, Path]:
    """Return the paths of the shipped studies by name."""
    return {path.stem: path for path in sorted(DEFAULT_STUDY.parent.glob("*.yaml"))}


def add_generator(parser: argparse.ArgumentParser) -> None:
    """Add the generator and --local, for the commands that measure a stored generator."""
    parser.add_argument(
        "generator", nargs="?", help="folder or URI of a generator (default: the storage's best by validation accuracy)"
    )
    add_local(parser)
