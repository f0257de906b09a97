"""The pool's teachers: built once and stored, for pools of every size; or online."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.core.networks.classifiers import forward_macs
from dim_ray.core.teachers.ensemble_speed import ensemble_may_pay, ensemble_pays
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool, shard, shard_weight
from dim_ray.core.teachers.snapshots import device_limit
from dim_ray.core.teachers.teacher import Teacher, TeacherTraining
from dim_ray.core.training.checkpoint import dumps, loads, with_prefix, without_prefix
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Checkpointer, Collective, PartReporter, Ports, Reporter, State
from dim_ray.core.training.precision import stated_precision
from dim_ray.pipeline.checkpoints import checkpointer
from dim_ray.pipeline.workspace import Workspace, dataset_card
from dim_ray.store.artifacts import ArtifactStore

__all__ = [
    "build_teachers",
    "group_teachers",
    "missing_teachers",
    "open_pool",
    "pool_parts",
    "pool_teachers",
    "read_teacher",
    "teacher_fingerprint",
    "teachers_cost",
]

_SNAPSHOTS_FILE = "snapshots.safetensors"
_LARGEST_GROUP = 4  # teachers at once: they are large, and unfinished ones are lost together


def teacher_fingerprint(work: Workspace, number: int) -> str:
    """Return the fingerprint of teacher `number`: the same for every pool size, so that pools are nested."""
    recipe = work.config.pool.recipe()
    return fingerprint("teacher", work.dataset.digest, _architecture(work.config, number), number, recipe)


def pool_teachers(config: Config) -> range:
    """Return the numbers of the stored teachers that a distillation needs: none online or without matching."""
    needed = config.matching.kind != "none" and config.matching.epochs > 0 and config.pool.kind == "stored"
    return range(config.pool.size if needed else 0)


def pool_parts(work: Workspace) -> list[Any]:
    """Return the pool's part of a generator's fingerprint: those of its teachers, or the recipe of online ones."""
    config = work.config
    if config.matching.kind != "none" and config.pool.kind == "online":
        return [config.pool.recipe(), list(config.networks.teachers)]
    return [teacher_fingerprint(work, number) for number in pool_teachers(config)]


def open_pool(work: Workspace, collective: Collective) -> TeacherPool | None:
    """Return one worker's pool: its shard of the stored teachers, or its own online ones; None if it has none."""
    config = work.config
    if config.matching.kind != "none" and config.pool.kind == "online":
        return OnlinePool(
            config.pool,
            config.networks.teachers,
            work.dataset.normalised(config.pool.normalisation),
            steps_per_epoch=len(work.dataset.train) // config.matching.batch_size,
            rank=collective.rank,
        )
    mine = shard(pool_teachers(config), collective)
    if not mine:
        return None
    return StoredPool(
        (read_teacher(work.artifacts, teacher_fingerprint(work, number)) for number in mine),
        work.dataset,
        limit_bytes=device_limit(config.pool.device_memory_gib, work.dataset.device),
        weight=shard_weight(pool_teachers(config), collective),
    )


def missing_teachers(work: Workspace) -> list[int]:
    """Return the numbers of the teachers that the storage lacks."""
    artifacts = work.artifacts
    return [n for n in pool_teachers(work.config) if not artifacts.exists("teachers", teacher_fingerprint(work, n))]


def group_teachers(work: Workspace, numbers: Sequence[int], *, device_type: str, num_slots: int) -> list[list[int]]:
    """Divide teachers into groups of one architecture that `build_teachers` may train at once, dearest first.

    `num_slots` groups are trained side by side on a kind of device, such as ``cpu``; no slot stays empty for larger
    groups.
    """
    config, groups = work.config, []
    for architecture in dict.fromkeys(config.networks.teachers):
        own = [number for number in numbers if _architecture(config, number) == architecture]
        largest = config.pool.teachers_at_once
        if largest is None:
            may_pay = ensemble_may_pay(architecture, work.dataset, device_type, batch_size=config.pool.batch_size)
            largest = max(1, min(_LARGEST_GROUP, len(numbers) // num_slots)) if may_pay else 1
        groups += [own[start : start + largest] for start in range(0, len(own), largest)]
    return sorted(groups, key=lambda group: -teachers_cost(work, group))


def teachers_cost(work: Workspace, numbers: Sequence[int]) -> float:
    """Estimate the cost of training teachers, in epochs of the pool's first architecture."""
    first, *others = dict.fromkeys(work.config.networks.teachers)
    macs = {name: forward_macs(name, work.dataset) for name in (first, *others)} if others else {first: 1}
    return sum(work.config.pool.epochs * macs[_architecture(work.config, number)] / macs[first] for number in numbers)


def build_teachers(work: Workspace, numbers: Sequence[int], reporter: Reporter) -> None:
    """Train the missing ones of some teachers of one architecture, and store each with its snapshots.

    They are trained as one ensemble if `pool.teachers_at_once` is set or that is faster on the dataset's device,
    otherwise one by one. Each has its own checkpoint, and so continues in any group.
    """
    config, dataset = work.config, work.dataset
    missing = [n for n in numbers if not work.artifacts.exists("teachers", teacher_fingerprint(work, n))]
    at_once = len(missing) > 1 and (
        config.pool.teachers_at_once is not None
        or ensemble_pays(config.pool, _architecture(config, missing[0]), dataset, batch_size=config.pool.batch_size)
    )
    alike: dict[int, list[int]] = {}  # by the step of their interruption
    for number in missing:
        saved = checkpointer(work, teacher_fingerprint(work, number)).load()
        alike.setdefault((saved.meta["steps"] if saved else 0) if at_once else number, []).append(number)
    for done, group in enumerate(alike.values()):
        _build(work, group, PartReporter(reporter, done, len(alike)))


def read_teacher(artifacts: ArtifactStore, name: str) -> Teacher:
    """Read the teacher of a fingerprint with its snapshots, on the CPU."""
    artifact = artifacts.read("teachers", name)
    tensors, _ = loads(artifact.files[_SNAPSHOTS_FILE], origin=f"{artifact.uri}/{_SNAPSHOTS_FILE}")
    steps = artifact.card["steps"]
    return Teacher(
        architecture=artifact.card["architecture"],
        snapshots=[without_prefix(str(step), tensors) for step in steps],
        steps=steps,
        validation_accuracy=artifact.card["validation_accuracy"],
        normalisation=artifact.card["training"].get("normalisation", "measured"),  # older cards have none
    )


def _build(work: Workspace, numbers: Sequence[int], reporter: Reporter) -> None:
    architecture = _architecture(work.config, numbers[0])
    names = [teacher_fingerprint(work, number) for number in numbers]
    with ExitStack() as stack:
        saved = [stack.enter_context(checkpointer(work, name, num_sharing=len(numbers))) for name in names]
        dataset = work.dataset.normalised(work.config.pool.normalisation)
        stage = TeacherTraining(work.config.pool, numbers, architecture, dataset)
        together = saved[0] if len(saved) == 1 else _Stacked(saved)
        run_epochs(stage, work.dataset.train, Ports(reporter=reporter, checkpointer=together))
    for number, name, own, teacher in zip(numbers, names, saved, stage.teachers(), strict=True):
        tensors: dict[str, Tensor] = {}
        for step, snapshot in zip(teacher.steps, teacher.snapshots, strict=True):
            tensors |= with_prefix(str(step), snapshot)
        card = {
            "architecture": architecture,
            "number": number,
            "steps": list(teacher.steps),
            "validation_accuracy": teacher.validation_accuracy,
            "dataset": dataset_card(work.dataset),
            "training": to_dict(work.config.pool),
            "precision": stated_precision(work.config.pool.precision, work.dataset.device),
            "wall_seconds": own.seconds(),
        }
        work.artifacts.write("teachers", name, {_SNAPSHOTS_FILE: dumps(tensors)}, card)
        own.clear()


@dataclass(frozen=True)
class _Stacked:
    """A Checkpointer of teachers that are trained at once: each one's state is kept as if it were trained by itself."""

    members: Sequence[Checkpointer]
    """Of the teachers, all with a state of the same step or none."""

    def due(self) -> bool:
        return self.members[0].due()

    def save(self, state: State) -> None:
        for index, member in enumerate(self.members):
            member.save(State(tensors={name: own[index] for name, own in state.tensors.items()}, meta=state.meta))

    def load(self) -> State | None:
        loaded = [member.load() for member in self.members]
        states = [state for state in loaded if state is not None]
        # Another driver that builds the same teachers may have saved or cleared one of them meanwhile.
        if len(states) < len(loaded) or len({state.meta["steps"] for state in states}) > 1:
            return None
        first = states[0]
        tensors = {name: torch.stack([state.tensors[name] for state in states]) for name in first.tensors}
        return State(tensors=tensors, meta=first.meta)

    def clear(self) -> None:
        for member in self.members:
            member.clear()


def _architecture(config: Config, number: int) -> str:
    teachers = config.networks.teachers
    return teachers[number % len(teachers)]
