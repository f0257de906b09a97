"""Tell within minutes what fails on a GPU, and how fast everything is there.

    python -m benchmarks gpu                                          8 minutes, what is left of them on CIFAR-10
    python -m benchmarks gpu --minutes 4 --dataset parquet:cifar10 --out rows
    python -m benchmarks gpu --tiny --dataset digits                  small sizes; always so without a GPU

Every line is printed, and kept as a file of Parquet, as soon as it is known: a run that is killed leaves what it has. A
check that fails is a line, and the exit code is 1 at the end.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import training
from benchmarks.measure import Case, describe, matrix_products, measure
from dim_ray.cli.flags import shipped_studies
from dim_ray.cli.settings import make_config, read_settings
from dim_ray.config import EvaluationConfig, MatchingConfig, PoolConfig, PriorConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.core.generator.distances import DISTANCES
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool
from dim_ray.core.teachers.teacher import TeacherTraining
from dim_ray.core.training.checkpoint import dumps, loads
from dim_ray.core.training.collective import TorchCollective
from dim_ray.core.training.loop import Stage
from dim_ray.core.training.ports import SILENT, Collective, SingleWorker
from dim_ray.core.training.precision import prepare_cuda
from dim_ray.errors import DimError, UsageError
from dim_ray.pipeline.generators import distill_generator
from dim_ray.pipeline.local import train_pool
from dim_ray.pipeline.priors import build_prior
from dim_ray.pipeline.workspace import Workspace, on_device
from dim_ray.progress import SilentProgress

__all__ = ["Bench", "Result", "main"]

_FAILURES = (RuntimeError, ValueError, TypeError, OSError, DimError)  # CUDA's and NCCL's are RuntimeErrors
_NCCL_TIMEOUT = timedelta(seconds=60)
_STEPS = 2  # before an interruption, and after it
_SAME_BITS = "flip+color+crop+cutout"  # rotate and scale have no derivative that always gives the same bits
_TINY: dict[str, Any] = {"generator.capacity": 8, "prior.batch_size": 16, "matching.batch_size": 16}
_TINY |= {"networks.teachers": ["convnet1_w4"], "networks.students": ["convnet1_w4"], "evaluation.epochs": 2}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a line says."""

    value: float = math.nan
    unit: str = ""
    note: str = ""
    is_well: bool = True


Lines = Iterator[tuple[str, Callable[[], Result]]]
"""Names of lines, and what measures them."""


class Bench:
    """Everything that is checked and timed on a device; with small sizes if it `is_tiny`."""

    def __init__(self, device: torch.device, *, is_tiny: bool) -> None:
        full = {"architectures": ("convnet3",), "capacity": 192, "batch_size": 128, "channels": 3, "image_size": 32}
        tiny = {"architectures": ("convnet1_w4",), "capacity": 8, "batch_size": 8, "image_size": 8}
        self.setting = replace(training.Setting(device=device), **(tiny if is_tiny else full))  # type: ignore[arg-type]
        self.is_tiny, self.is_cuda = is_tiny, device.type == "cuda"
        self.images_per_second: dict[str, float] = {}
        self._dataset = training.noise_images(self.setting)
        self._matrix_rate = 0.0  # multiply-accumulates a second
        if self.is_cuda:
            prepare_cuda(deterministic=False)

    def checks(self) -> Lines:
        """Yield what must hold."""
        for name, make, images in self._steps():
            yield f"{name}: host waits for nothing", partial(self._check_waiting, make, images)
        stages = self._stages(_SAME_BITS)
        for name, stage in stages.items():
            yield f"{name}: resumed as uninterrupted", partial(self._check_resume, stage)
        backend = "nccl" if self.is_cuda else "gloo"
        yield f"one worker of {backend} as none", partial(self._check_group, stages["prior, hinge"], backend)

    def speeds(self) -> Lines:
        """Yield what is timed."""
        yield "matrix products", self._time_products
        for name, make, images in self._steps():
            yield name, partial(self._time_steps, name, make, images)
        [sampling] = training.TRAINING["sampling"](self.setting)
        yield "sampling, float32", partial(self._time, "sampling", sampling)

    def _stages(self, augmentation: str = MatchingConfig().augmentation) -> dict[str, Callable[[Collective], Stage]]:
        """Return what makes each stage of training, by name."""
        setting, dataset, [architecture] = self.setting, self._dataset, self.setting.architectures
        prior = PriorConfig(precision=setting.precision)
        recipe = PoolConfig(precision=setting.precision, batch_size=setting.batch_size)
        kinds = {kind: MatchingConfig(kind=kind, augmentation=augmentation) for kind in DISTANCES}

        def teachers(count: int, workers: Collective) -> Stage:
            return TeacherTraining(recipe, range(count), architecture, dataset)

        def match(config: MatchingConfig, pool_kind: Any, workers: Collective) -> Stage:
            own = replace(recipe, kind=pool_kind)
            pool: TeacherPool = OnlinePool(own, (architecture,), dataset, steps_per_epoch=1000, rank=0)
            if pool_kind == "stored":
                pool = StoredPool([training.untrained_teacher(architecture, dataset, 0)], dataset)
            return training.matching_stage(setting, pool, dataset, workers, config)[1]

        def adversarial(config: PriorConfig) -> Callable[[Collective], Stage]:
            return partial(training.prior_stage, setting, config, dataset)

        return {
            **{f"teachers, {count} at once": partial(teachers, count) for count in (1, 4)},
            "prior, WGAN-GP": adversarial(prior),
            "prior, lazy WGAN-GP": adversarial(replace(prior, gradient_penalty_every=4)),
            "prior, hinge": adversarial(replace(prior, loss="hinge")),
            "prior, residual, lazy relativistic": adversarial(
                replace(prior, loss="relativistic", gradient_penalty_every=4)
            ),
            **{f"matching, {kind}": partial(match, config, "stored") for kind, config in kinds.items()},
            "matching, online pool": partial(match, kinds["logits"], "online"),
        }

    def _steps(self) -> Iterator[tuple[str, Callable[[], training.Step], int]]:
        """Yield every stage, and students: name, what makes its step, and images of a step."""
        setting, config = self.setting, EvaluationConfig(precision=self.setting.precision)
        for name, make in self._stages().items():
            yield name, partial(_step_of, make), setting.batch_size * (4 if "4 at once" in name else 1)
        for count in (1, 3, 5, 10):
            make_step = partial(training.ensemble_step, setting.architectures[0], config, setting, self._dataset, count)
            yield f"students, {count} at once", make_step, count * setting.student_batch_size

    def _indices(self, number: int, images: int) -> Tensor:
        return (torch.arange(images, device=self.setting.device) + number * images) % len(self._dataset.train)

    def _check_waiting(self, make: Callable[[], training.Step], images: int) -> Result:
        step, indices = make(), self._indices(0, images)
        for number in range(2):  # libraries are set up, and the scale of matching is measured
            step(number, indices)
        if not self.is_cuda:
            return Result()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(2, indices)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return Result()

    def _check_resume(self, make: Callable[[Collective], Stage]) -> Result:
        with self._same_bits():
            expected = self._run(make(SingleWorker()), range(2 * _STEPS))
            saved, _ = loads(self._run(make(SingleWorker()), range(_STEPS)), "memory")
            resumed = make(SingleWorker())
            resumed.load_state(saved)
            return _compare(self._run(resumed, range(_STEPS, 2 * _STEPS)), expected)

    def _check_group(self, make: Callable[[Collective], Stage], backend: str) -> Result:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the machine's name resolves to
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=_NCCL_TIMEOUT)
        try:
            with self._same_bits():
                found = self._run(make(TorchCollective(self.setting.device)), range(_STEPS))
                return _compare(found, self._run(make(SingleWorker()), range(_STEPS)))
        finally:
            dist.destroy_process_group()

    @contextmanager
    def _same_bits(self) -> Iterator[None]:
        if not self.is_cuda:
            yield
            return
        prepare_cuda(deterministic=True)
        try:
            yield
        finally:
            prepare_cuda(deterministic=False)

    def _run(self, stage: Stage, numbers: Sequence[int]) -> bytes:
        for number in numbers:
            stage.step(number, self._indices(number, self.setting.batch_size * len(stage.seeds)))
        return dumps(stage.state())

    def _time_products(self) -> Result:
        size = 256 if self.is_tiny else 8192
        cases = matrix_products(self.setting.device, [self.setting.precision], size)
        [measured] = measure(cases, repeats=10, device=self.setting.device)
        self._matrix_rate = measured.macs_per_second
        return Result(value=2e-12 * self._matrix_rate, unit="TFLOP/s", note=f"{cases[0].variant}, {size} x {size}")

    def _time_steps(self, name: str, make: Callable[[], training.Step], images: int) -> Result:
        step, count = make(), 1 if self.is_tiny else 10
        step(0, self._indices(0, images))  # sets things up

        def call() -> None:
            for number in range(1, 1 + count):
                step(number, self._indices(number, images))

        return self._time(name, Case(benchmark=name, variant="", call=call, items=count * images))

    def _time(self, name: str, case: Case) -> Result:
        [measured] = measure([case], repeats=3, device=self.setting.device)
        self.images_per_second[name] = measured.items_per_second
        share = 100 * measured.macs_per_second / self._matrix_rate if self._matrix_rate else float("nan")
        return Result(value=measured.items_per_second, unit="images/s", note=f"{share:.1f} % of matrix rate")


def main(argv: Sequence[str]) -> None:
    """Run ``python -m benchmarks gpu``; raises a `DimError` if an argument can't be used, or a line failed."""
    parser = argparse.ArgumentParser("python -m benchmarks gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help="for everything (default: 8)")
    parser.add_argument("--dataset", default="cifar10", help="name, or parquet:PATH (default: cifar10)")
    parser.add_argument(
        "--out", default="bench_results", metavar="DIR", help="folder of the rows (default: %(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    options = parser.parse_args(argv)
    if not options.minutes > 0:
        raise UsageError(f"--minutes is {options.minutes}; allowed: above 0.")
    ends_at = time.monotonic() + 60 * options.minutes
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    environment, failed = describe(device), []
    print(", ".join(f"{name} {value}" for name, value in environment.items()), flush=True)
    bench = Bench(device, is_tiny=options.tiny or device.type == "cpu")
    with tempfile.TemporaryDirectory(prefix="dim_ray-bench-") as storage:
        recipe = _recipe(bench, options.dataset, ends_at, storage)
        for number, (name, take) in enumerate(itertools.chain(bench.checks(), bench.speeds(), recipe)):
            if time.monotonic() > ends_at:
                print(f"--minutes {options.minutes:g} are over before {name!r}", flush=True)
                break
            result = _taken(take)
            failed += [] if result.is_well else [name]
            value = "ok" if math.isnan(result.value) else f"{result.value:,.1f} {result.unit}"
            print(f"{name:<52}{value if result.is_well else 'FAILED':>20}  {result.note}", flush=True)
            _keep(Path(options.out), number, {**environment, "line": name, **asdict(result)})
    if failed:
        raise DimError(f"{len(failed)} lines failed: {', '.join(failed)}.")


def _recipe(bench: Bench, source: str, ends_at: float, storage: str) -> Lines:
    """Yield the stages of the shipped recipe `gpu`, with the epochs that fit."""
    fields = {"data.dataset": source, "storage.root": storage, "pool.size": 2, **(_TINY if bench.is_tiny else {})}
    config = make_config(read_settings(shipped_studies()["gpu"])).with_fields(fields)
    work: Workspace
    has_data = False

    def load() -> Result:
        nonlocal work, has_data
        work = on_device(Workspace(config=config, dataset=load_dataset(config.data), study="gpu"))
        has_data = True
        return Result(value=len(work.dataset.train), unit="images")

    def build(section: str, line: str, share: float, run: Callable[[], object]) -> Result:
        """Run a stage for as many epochs as that share of the time left is enough for."""
        nonlocal work
        images = share * (ends_at - time.monotonic()) * bench.images_per_second.get(line, 0.0)
        epochs = max(1, min(getattr(config, section).epochs, int(images / len(work.dataset.train)))) if share else 0
        work = replace(work, config=work.config.with_fields({f"{section}.epochs": epochs}))
        return Result(value=epochs, unit="epochs", note=str(run() or ""))

    def distill() -> str:
        name = distill_generator(work, SILENT, SingleWorker())
        accuracy = work.artifacts.read_card("generators", name)["validation"]["validation_accuracy"]
        return f"its students: {100 * accuracy:.1f} % of the validation split"

    yield "recipe: data", load
    if not has_data:
        return
    one, prior, matching = "teachers, 1 at once", "prior, hinge", "matching, logit_means"
    yield "recipe: teachers", lambda: build("pool", one, 0.07, lambda: train_pool(work, SilentProgress()))
    yield "recipe: prior", lambda: build("prior", prior, 0.6, lambda: build_prior(work, SILENT, SingleWorker()))
    yield "recipe: prior without matching", lambda: build("matching", matching, 0, distill)
    yield "recipe: matching", lambda: build("matching", matching, 0.6, distill)


def _taken(take: Callable[[], Result]) -> Result:
    try:
        return take()
    except _FAILURES as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "dim_ray" in frame.filename]
        where = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
        return Result(is_well=False, note=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}{where}")


def _keep(folder: Path, number: int, row: dict[str, Any]) -> None:
    """Write one row: whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"gpu-{row['date'].replace(':', '')}-{number:03}.parquet"
    pq.write_table(pa.Table.from_pylist([row]), folder / f".{name}")
    os.replace(folder / f".{name}", folder / name)


def _step_of(make: Callable[[Collective], Stage]) -> training.Step:
    return make(SingleWorker()).step


def _compare(found: bytes, expected: bytes) -> Result:
    if found == expected:
        return Result()
    ours, theirs = (loads(data, "memory")[0] for data in (found, expected))
    distance = max(float((own.double() - theirs[name].double()).abs().max()) for name, own in ours.items())
    return Result(is_well=False, note=f"other bits: the largest difference is {distance:.3g}")
