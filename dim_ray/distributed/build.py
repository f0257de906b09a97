"""Teachers and priors over the cluster, each built once.

    with cluster(config, progress) as placement:
        build_networks(work, [config], placement, progress)

Those of one worker are Ray tasks; those of several run under Ray Train.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from dim_ray.config import Config
from dim_ray.core.training.ports import Reporter, SingleWorker
from dim_ray.distributed.cluster.joining import joins_a_cluster
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.leases import Claims, Held, Waits, hold, open_claims
from dim_ray.distributed.tasks import Task, run_tasks
from dim_ray.distributed.trainer import PRIOR, prior_shards, teacher_shards
from dim_ray.distributed.watched import advance, device_type, run_watched
from dim_ray.pipeline.priors import build_prior, prior_fingerprint, prior_is_settled
from dim_ray.pipeline.teachers import (
    build_teachers,
    group_teachers,
    missing_teachers,
    pool_teachers,
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

Pool = tuple[Workspace, Sequence[int]]
"""A workspace, and numbers of its teachers."""


def build_networks(
    work: Workspace,
    configs: Sequence[Config],
    placement: Placement,
    progress: Progress,
    *,
    with_priors: bool = True,
) -> None:
    """Builds the teachers and priors that the storage doesn't hold, each once, whichever configurations share it.

    On a cluster that others may use, too, each is claimed first: what another study builds is waited for while the rest
    is built, and built here if that study dies.

    Args:
        work: Data and storage.
        configs: Each with its pool and its prior.
        placement: What one job holds.
        progress: Is told about one stage.
        with_priors: Whether priors are built, too.
    """
    works = [replace(work, config=config) for config in configs]
    pools = _missing_pools(works)
    priors = _missing_priors(works) if with_priors else []
    num_networks = len(priors) + sum(len(numbers) for _, numbers in pools)
    if num_networks == 0:
        return
    progress.start(STAGE_BUILD, num_networks, "networks")
    # A Ray that was started for this command has nobody else, and is spared the actor's process.
    claims = open_claims(work.study) if joins_a_cluster() else None
    if placement.num_workers > 1:
        _build_in_turn(pools, priors, placement, claims, progress)
        return
    tasks = {
        _unique(_prior_name(own), index, len(priors)): Task(
            job=_prior_job, argument=(own.config, claims), cost=own.config.prior.epochs * ADVERSARIAL_COST
        )
        for index, own in enumerate(priors)
    }
    for index, (own, numbers) in enumerate(pools):
        for name, (group, cost) in _teacher_groups(own, numbers, placement).items():
            argument = (own.config, group, claims)
            tasks[_unique(name, index, len(pools))] = Task(job=_teachers_job, argument=argument, cost=cost)
    run_tasks(
        work,
        tasks,
        placement,
        on_progress=lambda share, note: progress.advance(num_networks * share, note),
        claims=claims,
    )


def _missing_pools(works: Sequence[Workspace]) -> list[Pool]:
    """Returns the teachers that the storage doesn't hold, each with the first workspace that needs it."""
    seen: set[str] = set()
    pools: list[Pool] = []
    for work in works:
        new = {teacher_fingerprint(work, number): number for number in pool_teachers(work.config)}
        new = {identity: number for identity, number in new.items() if identity not in seen}
        seen.update(new)
        if missing := [number for identity, number in new.items() if not work.artifacts.exists("teachers", identity)]:
            pools.append((work, missing))
    return pools


def _missing_priors(works: Sequence[Workspace]) -> list[Workspace]:
    """Returns a workspace for each prior that isn't settled, the dearest first."""
    distinct = {prior_fingerprint(work): work for work in works}
    missing = [work for work in distinct.values() if not prior_is_settled(work)]
    return sorted(missing, key=lambda work: (-work.config.generator.capacity, -work.config.prior.epochs))


def _build_in_turn(
    pools: Sequence[Pool],
    priors: Sequence[Workspace],
    placement: Placement,
    claims: Claims | None,
    progress: Progress,
) -> None:
    """Builds with several workers: first the teachers, then one prior after the other. The driver holds the claims."""
    done, waits = 0, Waits(claims)
    while True:
        left: list[Held] = []
        later: list[Pool] = []
        for work, teachers in pools:
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
            if rest := [number for number in teachers if number not in free]:
                later.append((work, rest))
        pools = later
        for work in list(priors):
            with _claimed_prior(work, claims) as others:
                if not others and not prior_is_settled(work):
                    tell = advance(progress, done, 1)
                    run_watched(prior_shards, work, placement, what=PRIOR, costs={PRIOR: 1.0}, on_progress=tell)
            left += others
            if not others:
                done += 1
                priors = [other for other in priors if other is not work]
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


def _teachers_job(
    work: Workspace, argument: tuple[Config, Sequence[int], Claims | None], reporter: Reporter
) -> list[Held]:
    config, numbers, claims = argument
    own = replace(work, config=config)
    with _claimed_teachers(own, numbers, claims) as (free, others):
        build_teachers(own, free, reporter)
    return others


def _prior_job(work: Workspace, argument: tuple[Config, Claims | None], reporter: Reporter) -> list[Held]:
    config, claims = argument
    own = replace(work, config=config)
    with _claimed_prior(own, claims) as others:
        if not others:
            build_prior(own, reporter, SingleWorker())
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
def _claimed_prior(work: Workspace, claims: Claims | None) -> Iterator[list[Held]]:
    """Yields the prior if another holds it."""
    with hold(claims, {_prior_name(work): work.artifacts.uri("priors", prior_fingerprint(work))}) as others:
        yield others


def _prior_name(work: Workspace) -> str:
    return f"prior of capacity {work.config.generator.capacity}"


def _unique(name: str, index: int, num_alike: int) -> str:
    """Returns a task's name: what is built for several recipes is numbered."""
    return name if num_alike == 1 else f"{name} ({index + 1} of {num_alike})"
