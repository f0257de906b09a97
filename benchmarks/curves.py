"""Record curves of generators, for the replays of `python -m benchmarks.searches samplers`.

    python -m benchmarks.curves record --folder FOLDER --num 200     half an hour to two hours; what is there is kept
    python -m benchmarks.curves pack --folder FOLDER                 the curves as one small file
    python -m benchmarks.curves signals                              how well measurements without students order them

Each generator is one of the default study's fields, in wider ranges, at a point of Sobol's sequence. Its validation
accuracy is measured after every epoch of matching by a student, and after the last by more. These students train for
fewer steps than the study's, which take longer than all else. Teachers and priors are shared. Seconds are of this
process's processor, so that what else runs on the machine doesn't count.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import qmc

from benchmarks.signals import Signals, rank_correlations
from dim_ray.cli.flags import DEFAULT_STUDY
from dim_ray.cli.settings import make_config, read_settings
from dim_ray.core.data.dataset import load_dataset
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.students.student import finished
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import SILENT, Ports, SingleWorker
from dim_ray.errors import DivergedError
from dim_ray.pipeline.priors import build_prior, load_prior
from dim_ray.pipeline.students import SizedGenerator, plan_selection, train_group
from dim_ray.pipeline.teachers import (
    build_teachers,
    missing_teachers,
    open_pool,
    read_teacher,
    teacher_fingerprint,
)
from dim_ray.pipeline.workspace import Workspace, on_device
from tuning.search.space import configure

__all__ = ["CURVES", "SPACE", "main"]

CURVES = Path(__file__).with_name("curves.parquet")
"""Recorded curves: one row per generator, epoch and student."""

SPACE: dict[str, Any] = {
    "pool.size": [1, 2, 4],
    "generator.capacity": [8, 16, 24],
    "matching.weight": {"low": 0.03, "high": 3.0, "log": True},
    "matching.adversarial_weight": {"low": 0.1, "high": 10.0, "log": True},
}
"""What differs between the generators."""

_CAPACITY = "generator.capacity"
_NUM_STUDENTS, _NUM_LAST_STUDENTS = 1, 4
_STUDENT_EPOCHS, _STUDENT_STEPS = 15, 60


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m benchmarks.curves``."""
    parser = argparse.ArgumentParser("python -m benchmarks.curves", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("name", choices=["record", "pack", "signals"])
    parser.add_argument("--folder", type=Path, default=Path("curves"), metavar="DIR", help="storage and recorded rows")
    parser.add_argument("--num", type=int, default=200, metavar="N", help="generators (default: 200)")
    options = parser.parse_args(argv)
    if options.name == "record":
        _record(options.folder, options.num)
    elif options.name == "signals":
        rows = pd.read_parquet(CURVES)
        print(
            f"rank correlation with students' accuracy over {rows['generator'].nunique()} generators; of one capacity"
        )
        alike = rank_correlations(rows, within=_CAPACITY)
        for name, correlation in rank_correlations(rows).items():
            print(f"{name:<17}{correlation:6.2f}  {alike[name]:6.2f}")
        ends = (
            rows[rows["epoch"] == rows["epoch"].max()]
            .groupby([_CAPACITY, "generator"])["accuracy"]
            .agg(["mean", "sem"])
        )
        for capacity, own in ends.groupby(level=0):
            print(
                f"capacity {capacity}: students' accuracy {own['mean'].mean():.1%}, between generators "
                f"{own['mean'].std():.2%}, standard error of one's mean {own['sem'].mean():.2%}"
            )
    else:
        rows = pd.concat(map(pd.read_parquet, sorted(options.folder.glob("curve-*.parquet"))), ignore_index=True)
        rows.to_parquet(CURVES, compression="zstd", index=False)
        print(f"{CURVES}: {rows['generator'].nunique()} generators, {CURVES.stat().st_size:,} bytes")


def _record(folder: Path, num_generators: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(read_settings(DEFAULT_STUDY))
    config = replace(
        config,
        evaluation=replace(config.evaluation, epochs=_STUDENT_EPOCHS, min_steps=_STUDENT_STEPS),
        study=replace(config.study, space=SPACE),
        storage=replace(config.storage, root=str(folder / "storage")),
    )
    work = on_device(Workspace(config=config, dataset=load_dataset(config.data), study="curves"), 1)
    choices = config.study.choices
    points = qmc.Sobol(len(choices), seed=0).random(2 ** math.ceil(math.log2(num_generators)))
    for number, point in enumerate(points[:num_generators].tolist()):
        file = folder / f"curve-{number:03}.parquet"
        if not file.exists():
            parameters = {choice.field: choice.at(share) for choice, share in zip(choices, point, strict=True)}
            measured = _curve(replace(work, config=configure(config, parameters)))
            rows = pd.DataFrame([{"generator": number, **parameters, **row} for row in measured])
            rows.to_parquet(file.with_suffix(".part"), index=False)
            file.with_suffix(".part").rename(file)
            last = rows[rows["epoch"] == config.matching.epochs]["accuracy"]
            print(f"{number}: {parameters}: {last.mean():.4f}", flush=True)


def _curve(work: Workspace) -> list[dict[str, Any]]:
    """Distil a generator, and return a row for each epoch and student."""
    config, collective = work.config, SingleWorker()
    build_teachers(work, missing_teachers(work), SILENT)
    build_prior(work, SILENT, collective)
    pair = build_pair(
        config.generator,
        config.prior,
        work.dataset,
        learning_rate=config.matching.learning_rate,
        seed=config.prior.seed,
    )
    load = pair.load_state if config.matching.adam_state == "prior" else pair.load_weights
    load(load_prior(work))
    signals = Signals(read_teacher(work.artifacts, teacher_fingerprint(work, 0)), work.dataset)
    rows: list[dict[str, Any]] = []
    began = time.process_time()
    students_seconds = 0.0

    def measure(epoch: int) -> Mapping[str, float]:
        nonlocal students_seconds
        trained = time.process_time() - began - students_seconds
        num_students = _NUM_LAST_STUDENTS if epoch == config.matching.epochs else _NUM_STUDENTS
        measured = time.process_time()
        accuracies = _accuracies(work, pair, num_students)
        seconds = time.process_time() - measured
        measured_signals = signals(pair.average.eval())
        students_seconds += time.process_time() - measured
        rows.extend(
            {
                "epoch": epoch,
                "student": student,
                "accuracy": accuracy,
                "training_seconds": trained,  # of all epochs so far
                "student_seconds": seconds / num_students,
                **measured_signals,
            }
            for student, accuracy in enumerate(accuracies)
        )
        return {}

    stage = Distillation(
        pair,
        open_pool(work, collective),
        config.matching,
        config.prior,
        work.dataset.normalised(config.pool.normalisation),
        health=config.health,
        collective=collective,
        measure=measure,
    )
    run_epochs(stage, work.dataset.train, Ports(reporter=SILENT, collective=collective))
    return rows


def _accuracies(work: Workspace, pair: Pair, num_students: int) -> list[float]:
    """Return the validation accuracy of each student; 0 if one diverged."""
    plans = plan_selection(work, range(num_students))
    generator = SizedGenerator(network=pair.average, size_bytes=0)
    pair.average.eval()
    with torch.enable_grad():
        results = train_group(work, plans, [generator] * len(plans), test=False)
    try:
        return [result.validation_accuracy for result in finished(results)]
    except DivergedError:
        return [0.0] * num_students


if __name__ == "__main__":
    main()
