"""What earlier jobs took, as the store knows it.

    stored_seconds(work, "prior", config)  # None: no job like it is stored

Jobs are alike if they had the same data and a recipe of the same cost. The store doesn't know the kind of machine.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.reader import Reader

__all__ = ["Job", "cost_key", "stored_seconds"]

Job = Literal["teacher", "prior", "trial", "student"]

_SECTIONS: Mapping[Job, tuple[str, ...]] = {
    "teacher": ("pool",),
    "prior": ("generator", "prior"),
    "trial": ("networks", "pool", "generator", "prior", "matching", "evaluation"),
    "student": ("generator",),
}
_VALIDATION = (  # fields of the study: students that validate are part of a trial
    "selection_images_per_class", "selection_seeds", "scheduler", "grace_epochs", "reduction_factor",
)  # fmt: skip
_FREE = {  # fields that change a result but not its cost
    "size", "num_snapshots", "snapshot_spacing", "seed", "learning_rate", "momentum", "weight_decay", "temperature",
    "weight", "adversarial_weight", "class_weight",
}  # fmt: skip


def cost_key(job: Job, config: Mapping[str, Any]) -> str:
    """Return a digest of the configuration's sections that the job reads, the same for jobs of the same cost."""
    costly = {
        section: {name: value for name, value in config[section].items() if name not in _FREE}
        for section in _SECTIONS[job]
    }
    if job == "trial":
        costly["study"] = {name: config["study"].get(name) for name in _VALIDATION}
    return fingerprint(job, costly)


def stored_seconds(work: Workspace, job: Job, config: Config, *arguments: Any) -> float | None:
    """Return the median device seconds of the jobs in the store that are like this one; None if there are none.

    The arguments are a teacher's architecture; or a student's plan, and the number of students that differ in their
    seeds.
    """
    seconds = list(_READERS[job](work, config, *arguments))
    return float(statistics.median(seconds)) if seconds else None


def _teachers(work: Workspace, config: Config, architecture: str) -> Iterator[float]:
    ours = cost_key("teacher", to_dict(config))
    for card in _cards(work, "teachers"):
        if card["architecture"] == architecture and cost_key("teacher", {"pool": card["training"]}) == ours:
            yield card["wall_seconds"]


def _priors(work: Workspace, config: Config) -> Iterator[float]:
    ours = cost_key("prior", to_dict(config))
    for card in _cards(work, "priors"):
        if cost_key("prior", {"generator": card["generator"], "prior": card["training"]}) == ours:
            yield card["wall_seconds"] * card["num_workers"]


def _trials(work: Workspace, config: Config) -> Iterator[float]:
    ours = cost_key("trial", to_dict(config))
    for row in Reader(work.config.storage.root).trials(state="completed").to_dict("records"):
        theirs = json.loads(row["config_json"])
        if cost_key("trial", theirs) == ours and work.artifacts.exists("generators", row["generator"]):
            # The row of a trial that was resumed, or that found its generator, has only a part of the cost.
            card = work.artifacts.read_card("generators", row["generator"])
            if card["dataset"]["digest"] == work.dataset.digest:
                yield card["wall_seconds"] * theirs["study"]["workers_per_trial"]


def _students(work: Workspace, config: Config, student: StudentPlan, num_seeds: int) -> list[float]:
    rows = Reader(work.config.storage.root).evaluations(
        dataset=work.dataset.name,
        data_fingerprint=work.dataset.digest,
        architecture=student.architecture,
        ipc=student.images_per_class,
        protocol=student.protocol,
        budget_fingerprint=fingerprint(student.recipe),
    )
    return list(rows["wall_seconds"])


_READERS: Mapping[Job, Callable[..., Iterable[float]]] = {
    "teacher": _teachers,
    "prior": _priors,
    "trial": _trials,
    "student": _students,
}


def _cards(work: Workspace, kind: str) -> Iterator[Mapping[str, Any]]:
    """Yield the cards of artefacts that were made of the same data."""
    for key in work.artifacts.list(kind):
        card = work.artifacts.read_card(kind, key)
        if card["dataset"]["digest"] == work.dataset.digest:
            yield card
