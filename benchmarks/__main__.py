"""Run the benchmarks and print them as a table; `--out` also keeps them as rows of Parquet.

    python -m benchmarks                          all of them
    python -m benchmarks adversarial --repeats 20
    python -m benchmarks student --architecture convnet3 vgg11 --out bench_results
    python -m benchmarks gpu                      everything about a GPU in eight minutes; see `gpu --help`
    python -m benchmarks scale                    a driver's work in a large study on an object store; `scale --help`

Each group begins with matrix products, whose rate is what "of matrix rate" is a share of.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from benchmarks.load import measure_load
from benchmarks.measure import MATRIX_PRODUCT, Measurement, describe, matrix_products, measure
from benchmarks.pools import POOLS
from benchmarks.scaling import compute_cases, scaling_table
from benchmarks.storage import STORAGE
from benchmarks.stores import STORES
from benchmarks.training import TRAINING, Setting
from benchmarks.trials import measure_gaps
from benchmarks.workers import WORKERS
from dim_ray.cli.main import run_main
from dim_ray.cli.summary import make_console
from dim_ray.config import IMAGE_SIZES, check_architecture
from dim_ray.core.training.memory import keep_freed_memory
from dim_ray.errors import UsageError, nearest

_TRIALS, _SCALING, _RAY_POOL, _RAY_TRAIN, _LOAD = "trials", "scaling", "ray-pool", "ray-train", "load"
_WORK = {**TRAINING, **POOLS, **WORKERS, **STORAGE, **STORES, _SCALING: compute_cases}
_NAMES = (*_WORK, _TRIALS, _RAY_POOL, _RAY_TRAIN, _LOAD)
_GPU, _SCALE = "gpu", "scale"  # commands of their own


def main(argv: Sequence[str]) -> None:
    """Run ``python -m benchmarks``.

    Args:
        argv: Arguments without the program's name.

    Raises:
        UsageError: A name or number is not one that is known.
    """
    if argv[:1] == [_GPU]:
        from benchmarks.gpu import main as measure_gpu

        measure_gpu(argv[1:])
        return
    if argv[:1] == [_SCALE]:
        from benchmarks.scale import main as measure_scale

        measure_scale(argv[1:])
        return
    options = _parse(argv)
    if options.list:
        print("\n".join(_NAMES))
        return
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if not options.default_memory:
        keep_freed_memory()
    setting = Setting(
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        capacity=options.capacity,
        architectures=tuple(options.architecture),
        student_batch_size=options.student_batch,
        image_size=options.image_size,
        is_compiling=options.compile,
        num_evaluations=options.evaluations,
    )
    console = make_console()
    environment = describe(setting.device)
    console.print(", ".join(f"{name} {value}" for name, value in environment.items()))
    rows: list[dict[str, Any]] = []
    for name in options.names or _NAMES:
        measured = _measure(name, setting, options)
        table = [_row(measurement, measured) for measurement in measured]
        console.print(_table(name, table))
        if name == _LOAD:
            console.print(f"{measured[1].median / measured[0].median:.2f} times as long beside them")
        if name == _SCALING:
            console.print(scaling_table(setting, [own for own in measured if own.case.benchmark != MATRIX_PRODUCT]))
        rows += [{**environment, "group": name, **row} for row in table]
    if options.out:
        console.print(f"rows in {_write(Path(options.out), rows)}")


def _measure(name: str, setting: Setting, options: argparse.Namespace) -> list[Measurement]:
    repeats: int = options.repeats
    if name == _TRIALS:
        return measure_gaps(repeats)
    if name == _LOAD:
        return measure_load(repeats)
    if name in (_RAY_POOL, _RAY_TRAIN):
        from benchmarks.train import measure_distillations, measure_pools  # the only ones that need Ray

        return (measure_pools if name == _RAY_POOL else measure_distillations)(repeats, options.minutes)
    cases = _WORK[name](setting)
    if any(case.has_arithmetic for case in cases):
        # With each group, because a shared machine is faster in one minute than in the next.
        cases = [*matrix_products(setting.device, list(dict.fromkeys(["float32", setting.precision]))), *cases]
    return measure(cases, repeats=repeats, device=setting.device)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_NAMES)} (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed calls of each (default: 10)")
    parser.add_argument("--capacity", type=int, default=196, metavar="N", help="of the generator (default: 196)")
    parser.add_argument("--architecture", nargs="+", default=["convnet3", "resnet18"], help="of students, and of pools")
    parser.add_argument("--student-batch", type=int, default=100, metavar="N", help="images a step (default: 100)")
    parser.add_argument("--image-size", type=int, default=28, metavar="N", help="pixels of all images (default: 28)")
    parser.add_argument(
        "--evaluations", type=int, default=1_000_000, metavar="N", help="of the large store (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="also measure compiled students (needs a C++ compiler)")
    parser.add_argument(
        "--default-memory", action="store_true", help="leave freed memory to the C library, unlike a training process"
    )
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="a stage under Ray takes (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="PyTorch's threads (default: its own choice)")
    parser.add_argument("--out", metavar="DIR", help="folder that receives the rows as Parquet")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in _NAMES:
            raise UsageError(f"there is no benchmark {name!r}; {nearest(name, _NAMES)}")
    if not options.minutes > 0:
        raise UsageError(f"--minutes is {options.minutes}; allowed: above 0.")
    for name in ("repeats", "capacity", "threads", "student_batch", "evaluations"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; allowed: 1 or more.")
    if options.image_size not in IMAGE_SIZES:
        sizes = f"{IMAGE_SIZES.start} to {IMAGE_SIZES.stop - 1}"
        raise UsageError(f"--image-size is {options.image_size}; allowed: {sizes} pixels.")
    for architecture in options.architecture:
        check_architecture(architecture)
    return options


def _row(measurement: Measurement, measured: Sequence[Measurement]) -> dict[str, Any]:
    case = measurement.case
    first, third = measurement.quartiles
    return {
        "benchmark": case.benchmark,
        "variant": case.variant,
        "n": len(measurement.seconds),
        "median_seconds": measurement.median,
        "first_quartile_seconds": first,
        "third_quartile_seconds": third,
        "items_per_second": measurement.items_per_second,
        "times_as_fast": _times_as_fast(measurement, measured),
        "gmac_per_item": measurement.macs / case.items / 1e9,
        "share_of_matrix_rate": _share(measurement, measured),
    }


def _times_as_fast(measurement: Measurement, measured: Sequence[Measurement]) -> float:
    """Return how many times as many items a second it makes as the first case of the same benchmark."""
    first = next(other for other in measured if other.case.benchmark == measurement.case.benchmark)
    return measurement.items_per_second / first.items_per_second


def _share(measurement: Measurement, measured: Sequence[Measurement]) -> float | None:
    """Return the rate of its arithmetic over that of matrix products in the same precision and the same minutes."""
    for other in measured:
        if other.case.benchmark == MATRIX_PRODUCT and other.case.precision == measurement.case.precision:
            return measurement.macs_per_second / other.macs_per_second
    return None


def _table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=name, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("benchmark")
    table.add_column("variant")
    for heading in ("n", "median ms", "quartiles", "items/s", "times as fast", "GMAC/item", "of matrix rate"):
        table.add_column(heading, justify="right")
    for row in rows:
        share = row["share_of_matrix_rate"]
        table.add_row(
            row["benchmark"],
            row["variant"],
            str(row["n"]),
            f"{1e3 * row['median_seconds']:,.1f}",
            f"{1e3 * row['first_quartile_seconds']:,.1f} to {1e3 * row['third_quartile_seconds']:,.1f}",
            f"{row['items_per_second']:,.1f}",
            f"{row['times_as_fast']:.2f}",
            f"{row['gmac_per_item']:.3f}" if row["gmac_per_item"] else "-",
            "-" if share is None or not row["gmac_per_item"] else f"{100 * share:.0f} %",
        )
    return table


def _write(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    path = folder / f"{stamp}.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


if __name__ == "__main__":
    sys.exit(run_main(main))
