"""The pool's teachers: of the store, built once, whoever asks first, and shared by pools of every size; or online."""

from __future__ import annotations

from typing import Any

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.core.checkpoint import dumps, loads, with_prefix, without_prefix
from dim_ray.core.online import OnlinePool
from dim_ray.core.pool import StoredPool, TeacherPool, shard
from dim_ray.core.ports import Collective, Reporter
from dim_ray.core.precision import resolve_precision
from dim_ray.core.teachers import Teacher, train_teacher
from dim_ray.pipeline.workspace import Workspace, checkpointer, dataset_card

__all__ = [
    "build_teacher",
    "load_teacher",
    "missing_teachers",
    "open_pool",
    "pool_identity",
    "pool_teachers",
    "read_teacher",
    "teacher_fingerprint",
]

_SNAPSHOTS_FILE = "snapshots.safetensors"


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
        return [to_dict(config.pool.recipe()), list(config.networks.teachers)]
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
    return StoredPool([load_teacher(work, number) for number in mine], work.dataset) if mine else None


def missing_teachers(work: Workspace) -> list[int]:
    """Returns the numbers of those teachers that the storage doesn't hold yet."""
    artifacts = work.artifacts
    return [n for n in pool_teachers(work.config) if not artifacts.exists("teachers", teacher_fingerprint(work, n))]


def build_teacher(work: Workspace, number: int, reporter: Reporter) -> None:
    """Trains teacher `number` and stores its snapshots, if the storage doesn't hold it."""
    identity = teacher_fingerprint(work, number)
    if work.artifacts.exists("teachers", identity):
        return
    architecture, pool = _architecture(work.config, number), work.config.pool
    with checkpointer(work, identity) as saved:
        teacher = train_teacher(pool, number, architecture, work.dataset, reporter=reporter, checkpointer=saved)
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
        "wall_seconds": saved.seconds(),
    }
    work.artifacts.write("teachers", identity, {_SNAPSHOTS_FILE: dumps(tensors)}, card)
    saved.clear()


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


def _architecture(config: Config, number: int) -> str:
    teachers = config.networks.teachers
    return teachers[number % len(teachers)]
