"""Teachers, priors and generators, built over the cluster.

    with cluster(config, progress) as placement:
        build_networks(work, [config], placement, progress)
        distill_one(work, placement, progress)

Jobs of one worker are Ray tasks; jobs of several run under Ray Train. What the storage holds isn't built again. Two
drivers that need the same network at the same moment both build it, and store the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from dim_ray.config import Config
from dim_ray.core.training.ports import Reporter, SingleWorker
from dim_ray.distributed.bridge import OnProgress, watching
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.tasks import Task, run_tasks
from dim_ray.distributed.trainer import DISTILLATION, PRIOR, distill_shards, prior_shards, run_workers, teacher_shards
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.priors import build_prior, prior_fingerprint, prior_is_settled
from dim_ray.pipeline.teachers import build_teachers, group_teachers, pool_teachers, teacher_fingerprint, teachers_cost
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress

__all__ = ["ADVERSARIAL_COST", "STAGE_BUILD", "STAGE_DISTILL", "build_networks", "distill_one"]

STAGE_BUILD, STAGE_DISTILL = "teachers and priors", "distillation"
ADVERSARIAL_COST = 4.0
"""Cost of an image in stage 1 or 2, in images of a classifier's training; for estimates of the time left."""


def build_networks(
    work: Workspace,
    configs: Sequence[Config],
    placement: Placement,
    progress: Progress,
    *,
    with_priors: bool = True,
) -> None:
    """Build the teachers and priors that the storage doesn't hold; one that several configurations share, once.

    Args:
        work: Data and storage.
        configs: Configurations, each with a pool and a prior.
        placement: What one job holds.
        progress: Receives one stage.
        with_priors: Whether to build priors too.
    """
    works = [replace(work, config=config) for config in configs]
    pools = _missing_pools(works)
    priors = _missing_priors(works) if with_priors else []
    num_networks = len(priors) + sum(len(numbers) for _, numbers in pools)
    if num_networks == 0:
        return
    progress.start(STAGE_BUILD, num_networks, "networks")
    if placement.num_workers > 1:
        _build_in_turn(pools, priors, placement, progress)
        return
    tasks = {
        _unique(f"prior of capacity {own.config.generator.capacity}", index, len(priors)): Task(
            job=_prior_job, argument=own.config, cost=own.config.prior.epochs * ADVERSARIAL_COST
        )
        for index, own in enumerate(priors)
    }
    for index, (own, numbers) in enumerate(pools):
        for name, group in _teacher_groups(own, numbers, placement).items():
            task = Task(job=_teachers_job, argument=(own.config, group), cost=teachers_cost(own, group))
            tasks[_unique(name, index, len(pools))] = task
    run_tasks(work, tasks, placement, on_progress=_advance(progress, 0, num_networks))


def distill_one(work: Workspace, placement: Placement, progress: Progress) -> None:
    """Distil the configuration's generator, unless the storage holds it."""
    epochs = max(1, work.config.matching.epochs)
    progress.start(STAGE_DISTILL, epochs, "epochs")

    def tell(share: float, _: str) -> None:
        progress.advance(share * epochs)

    if placement.num_workers == 1:
        run_tasks(work, {DISTILLATION: Task(job=_distill_job, argument=None)}, placement, on_progress=tell)
        return
    with watching({DISTILLATION: 1.0}, tell) as board:
        run_workers(distill_shards, work, placement, what=DISTILLATION, board=board)


def _missing_pools(works: Sequence[Workspace]) -> list[tuple[Workspace, list[int]]]:
    """Return the numbers of teachers that the storage doesn't hold, each with the first workspace that needs it."""
    seen: set[str] = set()
    pools: list[tuple[Workspace, list[int]]] = []
    for work in works:
        new = {teacher_fingerprint(work, number): number for number in pool_teachers(work.config)}
        new = {key: number for key, number in new.items() if key not in seen}
        seen.update(new)
        if missing := [number for key, number in new.items() if not work.artifacts.exists("teachers", key)]:
            pools.append((work, missing))
    return pools


def _missing_priors(works: Sequence[Workspace]) -> list[Workspace]:
    """Return a workspace for each prior that isn't settled, the most expensive first."""
    distinct = {prior_fingerprint(work): work for work in works}
    missing = [work for work in distinct.values() if not prior_is_settled(work)]
    return sorted(missing, key=lambda work: (-work.config.generator.capacity, -work.config.prior.epochs))


def _build_in_turn(
    pools: Sequence[tuple[Workspace, list[int]]],
    priors: Sequence[Workspace],
    placement: Placement,
    progress: Progress,
) -> None:
    """Build with several workers: the teachers first, then one prior after the other."""
    done = 0
    for work, numbers in pools:
        groups = _teacher_groups(work, numbers, placement)
        costs = {name: teachers_cost(work, group) for name, group in groups.items()}
        job = functools.partial(teacher_shards, groups)
        with watching(costs, _advance(progress, done, len(numbers))) as board:
            # One worker trains each teacher, so any number of workers builds the same pool.
            run_workers(job, work, placement, what="teacher training", board=board, is_elastic=True)
        done += len(numbers)
    for work in priors:
        with watching({PRIOR: 1.0}, _advance(progress, done, 1)) as board:
            run_workers(prior_shards, work, placement, what=PRIOR, board=board)
        done += 1


def _teacher_groups(work: Workspace, teachers: Sequence[int], placement: Placement) -> dict[str, Sequence[int]]:
    """Return groups of teachers that are trained at once, by name, the most expensive first."""
    groups = group_teachers(work, teachers, device_type=placement.device_type, num_slots=placement.num_slots)
    return {"teacher " + "+".join(map(str, group)): group for group in groups}


def _teachers_job(work: Workspace, argument: tuple[Config, Sequence[int]], reporter: Reporter) -> None:
    config, numbers = argument
    build_teachers(replace(work, config=config), numbers, reporter)


def _prior_job(work: Workspace, config: Config, reporter: Reporter) -> None:
    build_prior(replace(work, config=config), reporter, SingleWorker())


def _distill_job(work: Workspace, _: None, reporter: Reporter) -> None:
    distill_generator(work, reporter, SingleWorker())


def _advance(progress: Progress, done: int, size: int) -> OnProgress:
    """Return a function that moves a stage through `size` of its units, after `done` of them."""
    return lambda share, note: progress.advance(done + size * share, note if size > 1 else "")


def _unique(name: str, index: int, num_alike: int) -> str:
    """Return a task's name, numbered if several recipes have tasks of this kind."""
    return name if num_alike == 1 else f"{name} ({index + 1} of {num_alike})"
