"""Benchmarks of Ray Train: what it adds to a distillation, and what a second worker does for a pool.

Stages of the default study, the digits, trained for longer; every run has a storage of its own.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import torch
import torch.distributed as dist

from benchmarks.measure import Case, Measurement
from dim_ray.cli.flags import DEFAULT_STUDY
from dim_ray.cli.settings import make_config, read_settings
from dim_ray.config import Config
from dim_ray.core.data.dataset import load_dataset
from dim_ray.core.training.collective import TorchCollective
from dim_ray.core.training.ports import SilentReporter, SingleWorker
from dim_ray.distributed.bridge import watching
from dim_ray.distributed.cluster.joining import cluster
from dim_ray.distributed.trainer import distill_shards, run_workers, teacher_shards
from dim_ray.pipeline.generators import distill_generator, generator_fingerprint
from dim_ray.pipeline.local import train_pool
from dim_ray.pipeline.priors import build_prior
from dim_ray.pipeline.teachers import teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace, on_device
from dim_ray.progress import SilentProgress

__all__ = ["measure_distillations", "measure_pools"]

_CALIBRATION_EPOCHS = 2
_NUM_WORKERS = 2
_NUM_TEACHERS = 8
_TEACHER_EPOCHS_PER_MINUTE = 24  # of each of eight, one after the other, on the machine of docs/benchmarks.md


def measure_pools(repeats: int, minutes: float) -> list[Measurement]:
    """Train a pool of 8 teachers with one worker of one core and with two, in turns.

    Counts from when the first teacher begins until the last one is stored: the start of Ray and of the workers is left
    out.

    Args:
        repeats: Pools of each.
        minutes: That one worker takes, about.
    """
    cases = [
        Case(
            benchmark=f"pool of {_NUM_TEACHERS} teachers",
            variant=f"{count} worker{'s' * (count > 1)} of one core",
            call=lambda: None,
            items=_NUM_TEACHERS,
            has_arithmetic=False,
        )
        for count in (1, _NUM_WORKERS)
    ]
    epochs = max(1, round(_TEACHER_EPOCHS_PER_MINUTE * minutes))
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for own, count in zip(seconds, (1, _NUM_WORKERS), strict=True):
            with _workspace(epochs=1, teacher_epochs=epochs, num_teachers=_NUM_TEACHERS) as work:
                own.append(_train_pool(work, count))
    return [Measurement(case=case, seconds=tuple(own), macs=0) for case, own in zip(cases, seconds, strict=True)]


def measure_distillations(repeats: int, minutes: float) -> list[Measurement]:
    """Distils with two workers of one core, with Ray Train and as two processes without Ray, in turns.

    Both count from a worker's first step until the generator is stored, checkpoints included. What Ray Train takes
    beside that, until the workers have begun and after they have ended, is a row of its own.

    Args:
        repeats: Distillations of each.
        minutes: That one takes, about.
    """
    with _workspace(epochs=_CALIBRATION_EPOCHS) as work:
        epochs = max(1, round(60 * minutes * _CALIBRATION_EPOCHS / _distil_without_ray(work)))
    without, with_ray, around = [], [], []
    for _ in range(repeats):
        with _workspace(epochs=epochs) as work:
            without.append(_distil_without_ray(work))
        with _workspace(epochs=epochs) as work:
            _build_networks(work)
            started = time.perf_counter()
            with_ray.append(_distil_with_ray(work))
            around.append(time.perf_counter() - started - with_ray[-1])
    images = epochs * len(work.dataset.train)
    rows = [
        ("distillation, 2 workers", "processes only", images, without),
        ("distillation, 2 workers", "Ray Train", images, with_ray),
        ("around it", "Ray and its workers start and end", 1, around),
    ]
    return [
        Measurement(
            case=Case(benchmark=benchmark, variant=variant, call=lambda: None, items=items, has_arithmetic=False),
            seconds=tuple(seconds),
            macs=0,
        )
        for benchmark, variant, items, seconds in rows
    ]


@contextmanager
def _workspace(*, epochs: int, teacher_epochs: int = 1, num_teachers: int = _NUM_WORKERS) -> Iterator[Workspace]:
    """Yield the default study in an empty storage, with other budgets."""
    root = tempfile.mkdtemp(prefix="dim_ray-bench-")
    config = make_config(read_settings(DEFAULT_STUDY))
    config = replace(
        config,
        pool=replace(config.pool, size=num_teachers, epochs=teacher_epochs),
        prior=replace(config.prior, epochs=2),
        matching=replace(config.matching, epochs=epochs),
        health=replace(config.health, min_diversity=0.0, min_source_loss=0.0, max_source_gap=1e9),  # only speed counts
        study=replace(config.study, grace_epochs=epochs),  # nothing is validated before the end
        storage=replace(config.storage, root=root),
    )
    try:
        yield Workspace(config=config, dataset=load_dataset(config.data), study="benchmark")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _train_pool(work: Workspace, num_workers: int) -> float:
    groups = {f"teacher {number}": [number] for number in range(_NUM_TEACHERS)}
    with cluster(_with_workers(work.config, num_workers), SilentProgress()) as placement, watching() as board:
        job = functools.partial(teacher_shards, groups)
        run_workers(job, work, placement, what="teacher training", board=board)
    cards = [work.artifacts.read_card("teachers", teacher_fingerprint(work, n)) for n in range(_NUM_TEACHERS)]
    ended = [datetime.fromisoformat(card["created_at"]).timestamp() for card in cards]
    return float(max(ended) - min(end - card["wall_seconds"] for end, card in zip(ended, cards, strict=True)))


def _distil_with_ray(work: Workspace) -> float:
    with cluster(_with_workers(work.config, _NUM_WORKERS), SilentProgress()) as placement, watching() as board:
        run_workers(distill_shards, work, placement, what="distillation", board=board)
    return _seconds(work)


def _distil_without_ray(work: Workspace) -> float:
    _build_networks(work)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_distil, args=(work, rank)) for rank in range(_NUM_WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return _seconds(work)


def _distil(work: Workspace, rank: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # 127.0.0.1, whatever the machine's name resolves to
    rendezvous = f"file://{work.config.storage.root}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=_NUM_WORKERS)
    distill_generator(on_device(work, 1), SilentReporter(), TorchCollective(torch.device("cpu")))
    dist.destroy_process_group()


def _build_networks(work: Workspace) -> None:
    train_pool(on_device(work), SilentProgress())
    build_prior(on_device(work), SilentReporter(), SingleWorker())


def _with_workers(config: Config, num_workers: int) -> Config:
    return replace(config, study=replace(config.study, workers_per_trial=num_workers, cpus_per_worker=1))


def _seconds(work: Workspace) -> float:
    return float(work.artifacts.read_card("generators", generator_fingerprint(work))["wall_seconds"])
