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
    "study_titles",
]

DEFAULT_STUDY = Path(__file__).parents[2] / "tuning" / "studies" / "digits.yaml"
"""The configuration of a command without --config; installed beside this package."""


@dataclass(frozen=True, kw_only=True)
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


COMMON_FLAGS: tuple[Flag, ...] = (
    Flag(
        name="--dataset",
        field="data.dataset",
        help="digits, mnist, fashion_mnist, svhn, cifar10, cifar100, parquet:PATH or folder:PATH",
    ),
    Flag(
        name="--data-root",
        field="data.data_root",
        help="folder that has, or receives, torchvision's files (default: ~/.cache/dim_ray)",
    ),
    Flag(name="--storage", field="storage.root", help="where everything is kept: a folder, or an s3:// or gs:// URI"),
)
TUNE_FLAGS: tuple[Flag, ...] = (
    replace(COMMON_FLAGS[0], help=f"{COMMON_FLAGS[0].help}; several: a study each", all_values="datasets"),
    *COMMON_FLAGS[1:],
    Flag(
        name="--study",
        field="study.name",
        help="name of the study, to continue it later (default: by configuration)",
    ),
    Flag(name="--num-trials", field="study.num_trials", help="trials in total; a larger number extends a study"),
    Flag(name="--ipc", field="evaluation.images_per_class", help="images per class to evaluate, several"),
    Flag(
        name="--workers-per-trial",
        field="study.workers_per_trial",
        help="workers that share one distillation; above 1 they run under Ray Train",
    ),
    Flag(
        name="--max-concurrent",
        field="study.max_concurrent",
        help="trials at a time (default: as many as the resources hold)",
    ),
    Flag(
        name="--time-budget",
        field="study.time_budget",
        help="90s, 30m, 2h: then no trial starts, and running ones end at their next rung",
    ),
    Flag(
        name="--warm-start",
        field="study.warm_start",
        help="start with the best trials of these studies or datasets",
    ),
)
DISTILL_FLAGS: tuple[Flag, ...] = (
    *COMMON_FLAGS,
    Flag(name="--capacity", field="generator.capacity", help="channels of the generator"),
    Flag(name="--pool-size", field="pool.size", help="teachers to match against"),
    Flag(name="--weight", field="matching.weight", help="weight of the matching loss"),
    Flag(
        name="--workers",
        field="study.workers_per_trial",
        help="workers that share the distillation; above 1 they run under Ray Train",
    ),
)
POOL_FLAGS: tuple[Flag, ...] = (
    *COMMON_FLAGS,
    Flag(name="--size", field="pool.size", help="number of teachers; stored ones are not trained again"),
    Flag(
        name="--architecture",
        field="networks.teachers",
        help="architectures of the teachers in turn, such as convnet3 resnet18 (all: --help-all)",
    ),
    Flag(name="--epochs", field="pool.epochs", help="epochs on real images"),
    Flag(
        name="--workers",
        field="study.workers_per_trial",
        help="workers that share the teachers; above 1 they run under Ray Train",
    ),
)
DOCTOR_FLAGS: tuple[Flag, ...] = tuple(flag for flag in DISTILL_FLAGS if flag.name != "--weight")
EVALUATE_FLAGS: tuple[Flag, ...] = (
    *COMMON_FLAGS,
    Flag(name="--ipc", field="evaluation.images_per_class", help="images per class, several"),
    Flag(
        name="--architecture",
        field="networks.students",
        help="architectures of the students, several, such as convnet3 resnet18_w32 (all: --help-all)",
    ),
    Flag(name="--protocol", field="evaluation.protocols", help="protocols, several"),
    Flag(name="--num-seeds", field="evaluation.num_seeds", help="students per cell of the grid"),
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


def study_titles() -> str:
    """Return one line per shipped study: its name, and its file's first comment."""
    studies = shipped_studies()
    width = max(map(len, studies))
    titles = {name: path.read_text(encoding="utf-8").partition("\n")[0] for name, path in studies.items()}
    return "\n".join(f"{name:<{width}}  {title.lstrip('# ')}" for name, title in titles.items())


def add_generator(parser: argparse.ArgumentParser) -> None:
    """Add the generator and --local, for the commands that measure a stored generator."""
    parser.add_argument(
        "generator", nargs="?", help="folder or URI of a generator (default: the storage's best by validation accuracy)"
    )
    add_local(parser)
