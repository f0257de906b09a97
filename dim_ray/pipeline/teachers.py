"""The pool's teachers: of the store, built once, whoever asks first, and shared by pools of every size; or online."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.core.networks.classifiers import forward_macs
from dim_ray.core.teachers.ensemble_speed import ensemble_may_pay, ensemble_pays
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool, shard
from dim_ray.core.teachers.snapshots import device_budget
from dim_ray.core.teachers.teacher import Teacher, train_teachers
from dim_ray.core.training.checkpoint import dumps, loads, with_prefix, without_prefix
from dim_ray.core.training.ports import Checkpointer, Collective, Reporter, State
from dim_ray.core.training.precision import resolve_precision
from dim_ray.pipeline.checkpoints import checkpointer
from dim_ray.pipeline.workspace import Workspace, dataset_card

__all__ = [
    "build_teachers",
    "group_teachers",
    "load_teacher",
    "missing_teachers",
    "open_pool",
    "pool_identity",
    "pool_teachers",
    "read_teacher",
    "teacher_fingerprint",
    "teachers_cost",
]

_SNAPSHOTS_FILE = "snapshots.safetensors"
_LARGEST_GROUP = 4  # teachers at once: they are large, and what isn't finished is lost together


def teacher_fingerprint(work: Workspace, number: int) -> str:
    """Returns the identity of teacher `number`: the same for every pool size, so that pools are nested."""
    recipe = work.config.pool.recipe()
    return fingerprint("teacher", work.dataset.digest, _architecture(work.config, number), number, recipe)


def pool_teachers(config: Config) -> range:
    """Returns the numbers of the stored teachers that a distillation needs: none online or without matching."""
    needed = config.matching.kind != "none" and config.matching.epochs > 0 and config.pool.kind == "stored"
    return range(config.pool.size if needed else 0)


def pool_identity(work: Workspace) -> list[Any]:
    """Returns what a generator owes to its pool: fingerprints of teachers, or what online ones are made of."""
    config = work.config
    if config.matching.kind != "none" and config.pool.kind == "online":
        return [config.pool.recipe(), list(config.networks.teachers)]
    return [teacher_fingerprint(work, number) for number in pool_teachers(config)]


def open_pool(work: Workspace, collective: Collective) -> TeacherPool | None:
    """Returns the pool of one worker: its shard of the stored teachers, or online ones of its own.

    Returns:
        None where nothing is matched, or where there are fewer teachers than workers and none is left for this one.
    """
    config = work.config
    if config.matching.kind != "none" and config.pool.kind == "online":
        return OnlinePool(
            config.pool,
            config.networks.teachers,
            work.dataset,
            steps_per_epoch=len(work.dataset.train) // config.matching.batch_size,
            rank=collective.rank,
        )
    mine = shard(pool_teachers(config), collective)
    if not mine:
        return None
    return StoredPool(
        (load_teacher(work, number) for number in mine),
        work.dataset,
        budget_bytes=device_budget(config.pool.device_memory_gib, work.dataset.train.images.device),
    )


def missing_teachers(work: Workspace) -> list[int]:
    """Returns the numbers of those teachers that the storage doesn't hold yet."""
    artifacts = work.artifacts
    return [n for n in pool_teachers(work.config) if not artifacts.exists("teachers", teacher_fingerprint(work, n))]


def group_teachers(work: Workspace, numbers: Sequence[int], *, device_type: str, num_slots: int) -> list[list[int]]:
    """Divides teachers into groups of one architecture that `build_teachers` may train at once, dearest first.

    Args:
        work: Data and configuration.
        numbers: Of the teachers.
        device_type: Where they will be trained, such as ``cpu`` or ``cuda``.
        num_slots: Groups that are trained side by side: none stays empty for the sake of larger groups.
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
    """Returns an estimate of what it takes to train teachers, in epochs of the pool's first architecture."""
    first, *others = dict.fromkeys(work.config.networks.teachers)
    macs = {name: forward_macs(name, work.dataset) for name in (first, *others)} if others else {first: 1}
    return sum(work.config.pool.epochs * macs[_architecture(work.config, number)] / macs[first] for number in numbers)


def build_teachers(work: Workspace, numbers: Sequence[int], reporter: Reporter) -> None:
    """Trains teachers of one architecture and stores each with its snapshots, but those that the storage holds.

    They are trained as one ensemble where `pool.teachers_at_once` asks for it or it is faster on the dataset's device,
    otherwise one after the other. Each keeps a checkpoint of its own, so they go on in whatever groups they come again.
    """
    config, dataset = work.config, work.dataset
    missing = [n for n in numbers if not work.artifacts.exists("teachers", teacher_fingerprint(work, n))]
    at_once = len(missing) > 1 and (
        config.pool.teachers_at_once is not None
        or ensemble_pays(_architecture(config, missing[0]), dataset, batch_size=config.pool.batch_size)
    )
    alike: dict[int, list[int]] = {}  # those that were interrupted at one step
    for number in missing:
        saved = checkpointer(work, teacher_fingerprint(work, number)).load()
        alike.setdefault((saved.meta["steps"] if saved else 0) if at_once else number, []).append(number)
    for done, group in enumerate(alike.values()):
        _build(work, group, _Part(reporter, done, len(alike)))


def load_teacher(work: Workspace, number: int) -> Teacher:
    """Reads teacher `number` with its snapshots, on the CPU."""
    return read_teacher(work, teacher_fingerprint(work, number))


def read_teacher(work: Workspace, identity: str) -> Teacher:
    """Reads the teacher of this fingerprint with its snapshots, on the CPU."""
    artifact = work.artifacts.read("teachers", identity)
    tensors, _ = loads(artifact.files[_SNAPSHOTS_FILE], origin=f"{artifact.uri}/{_SNAPSHOTS_FILE}")
    steps = artifact.card["steps"]
    return Teacher(
        architecture=artifact.card["architecture"],
        snapshots=[without_prefix(str(step), tensors) for step in steps],
        steps=steps,
        validation_accuracy=artifact.card["validation_accuracy"],
    )


def _build(work: Workspace, numbers: Sequence[int], reporter: Reporter) -> None:
    """Trains teachers at once and stores them."""
    architecture = _architecture(work.config, numbers[0])
    identities = [teacher_fingerprint(work, number) for number in numbers]
    with ExitStack() as stack:
        saved = [stack.enter_context(checkpointer(work, identity, num_sharing=len(numbers))) for identity in identities]
        teachers = train_teachers(
            work.config.pool,
            numbers,
            architecture,
            work.dataset,
            reporter=reporter,
            checkpointer=saved[0] if len(saved) == 1 else _Stacked(saved),
        )
    for number, identity, own, teacher in zip(numbers, identities, saved, teachers, strict=True):
        tensors = {
            name: tensor
            for step, snapshot in zip(teacher.steps, teacher.snapshots, strict=True)
            for name, tensor in with_prefix(str(step), snapshot).items()
        }
        card = {
            "architecture": architecture,
            "number": number,
            "steps": list(teacher.steps),
            "validation_accuracy": teacher.validation_accuracy,
            "dataset": dataset_card(work.dataset),
            "training": to_dict(work.config.pool),
            "precision": resolve_precision(work.config.pool.precision, work.dataset.train.images.device),
            "wall_seconds": own.seconds(),
        }
        work.artifacts.write("teachers", identity, {_SNAPSHOTS_FILE: dumps(tensors)}, card)
        own.clear()


class _Stacked:
    """A Checkpointer of several teachers that are trained at once: the state of each is kept as if it were alone.

    Args:
        members: Their own, all with a state of one step or none.
    """

    def __init__(self, members: Sequence[Checkpointer]) -> None:
        self._members = members

    def due(self) -> bool:
        return self._members[0].due()

    def save(self, state: State) -> None:
        for index, member in enumerate(self._members):
            member.save(State(tensors={name: own[index] for name, own in state.tensors.items()}, meta=state.meta))

    def load(self) -> State | None:
        states = [state for state in (member.load() for member in self._members) if state is not None]
        if not states:
            return None
        first = states[0]
        tensors = {name: torch.stack([state.tensors[name] for state in states]) for name in first.tensors}
        return State(tensors=tensors, meta=first.meta)

    def clear(self) -> None:
        for member in self._members:
            member.clear()


class _Part:
    """A Reporter of one of several parts of a job."""

    def __init__(self, whole: Reporter, done: int, num_parts: int) -> None:
        self._whole = whole
        self._done = done
        self._num_parts = num_parts

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._whole.report(self._done * total + step, self._num_parts * total, metrics)


def _architecture(config: Config, number: int) -> str:
    teachers = config.networks.teachers
    return teachers[number % len(teachers)]
