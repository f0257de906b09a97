"""The benchmark of a search: how long a core waits between one trial and the next."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile

import pandas as pd

from benchmarks.measure import Case, Measurement
from dim_ray.store.artifacts import ArtifactStore

__all__ = ["measure_gaps"]

_TINY = {
    "networks.teachers": "convnet1_w4",
    "networks.students": "convnet1_w4",
    "pool.epochs": 1,
    "prior.epochs": 1,
    "matching.epochs": 1,
    "ipc": 1,
    "evaluation.epochs": 1,
    "evaluation.num_seeds": 1,
    "evaluation.protocols": "fixed",
    "study.space": """{pool.size: [1], generator.capacity: [4], matching.weight: {low: 0.01, high: 1.0, log: true},
        matching.adversarial_weight: {low: 0.5, high: 3.0, log: true}}""",
    "study.max_concurrent": 1,
}


def measure_gaps(repeats: int) -> list[Measurement]:
    """Run a study of tiny trials on the digits, one at a time, in processes of its own.

    A gap is all of the time from the end of a trial to the end of the next that the next one's card doesn't count as
    training: what Ray Tune and Optuna take, reading the prior, building the networks, and writing the generator. The
    first trial's process is new, the others reuse it.

    Args:
        repeats: Gaps.
    """
    root = tempfile.mkdtemp(prefix="dim_ray-bench-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    command = [sys.executable, "-m", "dim_ray.tune", "--storage", root, "--num-trials", str(repeats + 1)]
    for name, value in _TINY.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = pd.read_parquet(f"{root}/trials").sort_values("started_at")
    ended = trials["started_at"] + pd.to_timedelta(trials["wall_seconds"], unit="s")
    artifacts = ArtifactStore(root)
    training = [artifacts.read_card("generators", generator)["wall_seconds"] for generator in trials["generator"]]
    gaps = ended.diff().dt.total_seconds() - training
    case = Case(benchmark="between trials", variant="one at a time", call=lambda: None, items=1, has_arithmetic=False)
    return [Measurement(case=case, seconds=tuple(gaps.iloc[1:]), macs=0)]
