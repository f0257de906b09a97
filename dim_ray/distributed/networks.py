"""Teachers and priors over the cluster, each built once.

    with cluster(config, progress) as placement:
        build_networks(work, config.pool.size, [config.generator.capacity], placement, progress)

Those of one worker are Ray tasks; those of several run under Ray Train.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dim_ray.core.ports import Reporter, SingleWorker
from dim_ray.distributed.leases import Claims, Held, Waits, hold, open_claims
from dim_ray.distributed.resources import Placement, joins_a_cluster
from dim_ray.distributed.tasks import Task, run_tasks
from dim_ray.distributed.trainer import PRIOR, prior_shards, teacher_shards
from dim_ray.distributed.watched import advance, device_type, run_watched
from dim_ray.pipeline.priors import build_prior, prior_fingerprint, prior_is_settled
from dim_ray.pipeline.teachers import (
    build_teachers,
    group_teachers,
    missing_teachers,
    teacher_fingerprint,
    teachers_cost,
)
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress

__all__ = ["ADVERSARIAL_COST", "STAGE_BUILD", "build_networks"]

STAGE_BUILD = "teachers and priors"
ADVERSARIAL_COST = 4.0
"""Of an image in stage 1 or 2, in those of an image in a classifier's training: for estimates of the time left."""
_SECONDS_BETWEEN_LOOKS = 0.5


def build_networks(
    work: Workspace, pool_size: int, capacities: Sequence[int], placement: Placement, progress: Progress
) -> None:
    """Builds the teachers and priors that the storage doesn't hold.

    On a cluster that others may use, too, each is claimed first: what another study builds is waited for while the rest
    is built, and built here if that study dies.

    Args:
        work: Data, recipes and storage.
        pool_size: Teachers 0 to pool_size - 1.
        capacities: One prior for each.
        placement: What one job holds.
        progress: Is told about one stage.
    """
    config = work.config
    work = replace(work, config=replace(config, pool=replace(config.pool, size=pool_size)))
    dearest_first = sorted(capacities, reverse=True)
    missing = [capacity for capacity in dearest_first if not prior_is_settled(_with_capacity(work, capacity))]
    teachers = missing_teachers(work)
    if not missing and not teachers:
        return
    progress.start(STAGE_BUILD, len(missing) + len(teachers), "networks")
    # A Ray that was started for this command has nobody else, and is spared the actor's process.
    claims = open_claims(work.study) if joins_a_cluster() else None
    if placement.num_workers > 1:
        _build_in_turn(work, teachers, missing, placement, claims, progress)
        return
    groups = _teacher_groups(work, teachers, placement)
    prior_cost = config.prior.epochs * ADVERSARIAL_COST
    tasks = {_prior_name(c): Task(job=_prior_job, argument=(c, claims), cost=prior_cost) for c in missing}
    tasks |= {name: Task(job=_teachers_job, argument=(own, claims), cost=cost) for name, (own, cost) in groups.items()}
    num_networks = len(missing) + len(teachers)
    run_tasks(
        work,
        tasks,
        placement,
        on_progress=lambda share, note: progress.advance(num_networks * share, note),
        claims=claims,
    )


def _build_in_turn(
    work: Workspace,
    teachers: Sequence[int],
    capacities: Sequence[int],
    placement: Placement,
    claims: Claims | None,
    progress: Progress,
) -> None:
    """Builds with several workers: first the teachers, then one prior after the other. The driver holds the claims."""
    done, waits = 0, Waits(claims)
    while True:
        left: list[Held] = []
        with _claimed_teachers(work, teachers, claims) as (free, others):
            missing = missing_teachers(work) if free else []
            own = [number for number in free if number in missing]
            if own:
                groups = _teacher_groups(work, own, placement)
                job = functools.partial(teacher_shards, groups)
                costs = {name: cost for name, (_, cost) in groups.items()}
                tell = advance(progress, done, len(own))
                # Each teacher is trained by one of them, so any number of workers comes to the same pool.
                what = "teacher training"
                run_watched(job, work, placement, what=what, costs=costs, on_progress=tell, is_elastic=True)
        left += others
        done += len(free)
        teachers = [number for number in teachers if number not in free]
        for capacity in list(capacities):
            with _claimed_prior(work, capacity, claims) as (own_work, others):
                if not others and not prior_is_settled(own_work):
                    tell = advance(progress, done, 1)
                    run_watched(prior_shards, own_work, placement, what=PRIOR, costs={PRIOR: 1.0}, on_progress=tell)
            left += others
            if not others:
                done += 1
                capacities = [other for other in capacities if other != capacity]
        if not left:
            return
        waits.add("networks", left)
        while not waits.take_free():
            progress.advance(done, waits.note())
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _teacher_groups(
    work: Workspace, teachers: Sequence[int], placement: Placement
) -> dict[str, tuple[Sequence[int], float]]:
    """Returns groups of teachers that are trained at once, by name, with what each costs; the dearest first."""
    num_slots = placement.max_concurrent * placement.num_workers
    groups = group_teachers(work, teachers, device_type=device_type(placement), num_slots=num_slots)
    names = ["teacher " + "+".join(map(str, group)) for group in groups]
    return {name: (group, teachers_cost(work, group)) for name, group in zip(names, groups, strict=True)}


def _teachers_job(work: Workspace, argument: tuple[Sequence[int], Claims | None], reporter: Reporter) -> list[Held]:
    with _claimed_teachers(work, *argument) as (free, others):
        build_teachers(work, free, reporter)
    return others


def _prior_job(work: Workspace, argument: tuple[int, Claims | None], reporter: Reporter) -> list[Held]:
    with _claimed_prior(work, *argument) as (own_work, others):
        if not others:
            build_prior(own_work, reporter, SingleWorker())
    return others


@contextmanager
def _claimed_teachers(
    work: Workspace, numbers: Sequence[int], claims: Claims | None
) -> Iterator[tuple[list[int], list[Held]]]:
    """Yields those teachers that are this study's to build, and what others hold."""
    keys = {f"teacher {n}": work.artifacts.uri("teachers", teacher_fingerprint(work, n)) for n in numbers}
    with hold(claims, keys) as others:
        theirs = {held.what for held in others}
        yield [number for number in numbers if f"teacher {number}" not in theirs], others


@contextmanager
def _claimed_prior(work: Workspace, capacity: int, claims: Claims | None) -> Iterator[tuple[Workspace, list[Held]]]:
    """Yields the prior's workspace, and it if another holds it."""
    own = _with_capacity(work, capacity)
    with hold(claims, {_prior_name(capacity): own.artifacts.uri("priors", prior_fingerprint(own))}) as others:
        yield own, others


def _prior_name(capacity: int) -> str:
    return f"prior of capacity {capacity}"


def _with_capacity(work: Workspace, capacity: int) -> Workspace:
    config = work.config
    return replace(work, config=replace(config, generator=replace(config.generator, capacity=capacity)))
