"""The benchmark of a busy machine: how much longer a distillation takes beside other processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measure import Case, Measurement
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["measure_load"]

_NUM_BUSY = 2
_BUSY = "while True: pass"
_FLAGS = {
    "generator.capacity": 24,
    "pool.size": 1,
    "prior.epochs": 1,
    "matching.epochs": 1,
    "study.scheduler": "none",
    "study.selection_images_per_class": 1,
    "evaluation.min_steps": 1,
    "health.min_diversity": 0,
}


def measure_load(repeats: int) -> list[Measurement]:
    """Distil digits with `distill --local`, with nothing else of ours running and beside two busy processes, in turns.

    Counts the training of teacher, prior and generator, without the start of the process. The environment decides on
    threads and waiting, so OMP_WAIT_POLICY=active shows what the default avoids.

    Args:
        repeats: Distillations of each.
    """
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        seconds[0].append(_distill())
        with _busy_processes():
            seconds[1].append(_distill())
    return [
        Measurement(
            case=Case(benchmark="distill --local", variant=variant, call=lambda: None, items=1, has_arithmetic=False),
            seconds=tuple(own),
            macs=0,
        )
        for variant, own in zip(("quiet", f"beside {_NUM_BUSY} busy processes"), seconds, strict=True)
    ]


def _distill() -> float:
    with tempfile.TemporaryDirectory(prefix="dim_ray-bench-") as root:
        command = [sys.executable, "-m", "dim_ray.distill", "--local", "--storage", root]
        command += [word for name, value in _FLAGS.items() for word in (f"--{name}", str(value))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        artifacts = ArtifactStore(root)
        keys = [(kind, key) for kind in ("teachers", "priors", "generators") for key in artifacts.list(kind)]
        return sum(float(artifacts.read_card(kind, key)["wall_seconds"]) for kind, key in keys)


@contextmanager
def _busy_processes() -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(_NUM_BUSY)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
