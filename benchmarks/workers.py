"""Benchmarks of several workers: processes of one core each, which share the global batch over gloo.

One worker and several take turns on the same machine, each step of theirs being one of the distillation: DiM's losses,
a pool of stored teachers of which every worker holds its shard, gradients averaged and batch norm shared.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from benchmarks.measure import Case
from benchmarks.training import Setting, matching_stage, noise_images, untrained_teacher
from dim_ray.core.teachers.pool import StoredPool, shard
from dim_ray.core.training.collective import TorchCollective
from dim_ray.core.training.memory import keep_freed_memory

__all__ = ["WORKERS"]

_TEACHERS = 8
_NUM_WORKERS = (1, 2)


def _workers(setting: Setting) -> list[Case]:
    cases = []
    for num_workers in _NUM_WORKERS:
        step = _start(replace(setting, device=torch.device("cpu")), num_workers)
        cases.append(
            Case(
                benchmark="matching step",
                variant=f"{num_workers} worker{'s' * (num_workers > 1)} of one core, {setting.precision}",
                call=step,
                items=setting.batch_size,
                precision=setting.precision,
                has_arithmetic=False,  # in other processes, where it isn't counted
            )
        )
    return cases


def _start(setting: Setting, num_workers: int) -> Callable[[], None]:
    """Start workers, and returns what lets all of them make a step."""
    context = multiprocessing.get_context("spawn")
    folder = tempfile.TemporaryDirectory(prefix="dim_ray-bench-")
    connections: list[Connection] = []
    for rank in range(num_workers):
        ours, theirs = context.Pipe()
        arguments = (setting, rank, num_workers, f"{folder.name}/rendezvous", theirs)
        context.Process(target=_work, args=arguments, daemon=True).start()
        connections.append(ours)
    atexit.register(folder.cleanup)

    def step() -> None:
        for connection in connections:
            connection.send(None)
        for connection in connections:
            connection.recv()

    return step


def _work(setting: Setting, rank: int, num_workers: int, rendezvous: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # 127.0.0.1, whatever the machine's name resolves to
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_workers)
    collective = TorchCollective()
    dataset = noise_images(setting)
    numbers = shard(range(_TEACHERS), collective)
    pool = StoredPool([untrained_teacher("convnet3", dataset, number) for number in numbers], dataset)
    _, stage = matching_stage(setting, pool, dataset, collective)
    share = setting.batch_size // num_workers
    number = 0
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        first = (number * setting.batch_size + rank * share) % (len(dataset.train) - share)
        stage.step(number, torch.arange(first, first + share))
        number += 1
        connection.send(None)


WORKERS: Mapping[str, Callable[[Setting], list[Case]]] = {"workers": _workers}
