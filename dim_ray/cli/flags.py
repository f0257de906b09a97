"""The flags of the commands: everyday ones that stand for fields of the configuration, and arguments that several have.

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
"""What a command runs that was given no --config; installed beside this package."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A short flag that stands for a field of the configuration and takes its type."""

    name: str
    """For example --dataset."""
    field: str
    """For example data.dataset; a field of several values takes several: --ipc 1 10 50."""
    help: str
    """One line; the default is added to it."""
    all_values: str | None = None
    """Extra argument that receives all values where several are given; the field has the first. Default: one value."""


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
        help="name of the study; the same goes on with it (default: by configuration)",
    ),
    Flag(name="--num-trials", field="study.num_trials", help="trials in all; a larger number extends a study"),
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
        help="90s, 30m, 2h: then no trial begins, and what runs ends at its next rung",
    ),
    Flag(
        name="--warm-start",
        field="study.warm_start",
        help="begin with the best trials of these studies or data sets",
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
    Flag(name="--size", field="pool.size", help="teachers; those that are there are not trained again"),
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
    Flag(name="--num-seeds", field="evaluation.num_seeds", help="students for each cell of the grid"),
)
QUIRKS_FLAGS: tuple[Flag, ...] = tuple(flag for flag in EVALUATE_FLAGS if flag.name != "--protocol")


def add_local(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the commands that can do without Ray."""
    parser.add_argument("--local", action="store_true", help="in this process alone: needs no Ray")


def check_local(config: Config, *, is_local: bool) -> None:
    """Raise a `UsageError` where one process is asked for, and several workers."""
    if is_local and config.study.workers_per_trial > 1:
        raise UsageError(
            f"--local is one process, and --workers is {config.study.workers_per_trial}; leave one of them out."
        )


def shipped_studies() -> dict[str, Path]:
    """Return the configurations that are installed beside this package, by name."""
    return {path.stem: path for path in sorted(DEFAULT_STUDY.parent.glob("*.yaml"))}


def study_titles() -> str:
    """Return a line for each shipped configuration: its name, and its file's first comment."""
    studies = shipped_studies()
    width = max(map(len, studies))
    titles = {name: path.read_text(encoding="utf-8").partition("\n")[0] for name, path in studies.items()}
    return "\n".join(f"{name:<{width}}  {title.lstrip('# ')}" for name, title in titles.items())


def add_generator(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the commands that measure a stored generator."""
    parser.add_argument(
        "generator", nargs="?", help="folder or URI of a generator (default: the storage's best by validation accuracy)"
    )
    add_local(parser)
