"""Benchmarks of pools larger than a device: what it costs that a step's snapshot first has to be brought over.

With a GPU the copy crosses the bus, beside the computation. Without one it is a copy of the same bytes from memory to
memory, in the thread that computes, so that all of it is added to a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch

from benchmarks.measure import Case
from benchmarks.training import Setting, matching_case, noise_images, untrained_teacher
from dim_ray.core.teachers.pool import StoredPool
from dim_ray.core.teachers.snapshots import SnapshotMemory
from dim_ray.core.teachers.teacher import Teacher

__all__ = ["POOLS"]

_TEACHERS = 8  # of one snapshot each; a step that draws the last one again has nothing to bring over


def _pools(setting: Setting) -> list[Case]:
    dataset = noise_images(setting)
    cases = []
    for architecture in setting.architectures:
        teachers = [untrained_teacher(architecture, dataset, number) for number in range(_TEACHERS)]
        for where, limit_bytes in (("device", None), ("host", 0)):
            pool = StoredPool(teachers, dataset, limit_bytes=limit_bytes)
            name = f"matching step, pool of {architecture}"
            cases.append(matching_case(setting, name, f"snapshots on the {where}", pool, dataset))
        cases.append(_bringing_over(architecture, teachers[:2], setting.device))
    return cases


def _bringing_over(architecture: str, teachers: list[Teacher], device: torch.device) -> Case:
    """Return the copy of a snapshot that nothing else hides."""
    memory = SnapshotMemory(device, limit_bytes=0)
    size_bytes = sum(tensor.nbytes for tensor in teachers[0].snapshots[0].values())
    turns = itertools.cycle([memory.add(teacher.snapshots[0]) for teacher in teachers])
    return Case(
        benchmark=f"bringing over a {architecture}",
        variant=f"{size_bytes / 1e6:.1f} MB",
        call=lambda: memory.take([next(turns)]),
        items=1,
        has_arithmetic=False,
    )


POOLS: Mapping[str, Callable[[Setting], list[Case]]] = {"pool": _pools}
"""By name."""
