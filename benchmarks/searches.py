"""Measure what the search saves, with whole studies of the digits in processes of their own.

    python -m benchmarks.searches sharing       16 trials of one study, and the same 16 configurations one by one
    python -m benchmarks.searches warm-start    how soon a study that begins from another one's trials is as good
    python -m benchmarks.searches dry-run       the estimate of --dry-run beside what the study took
    python -m benchmarks.searches verdicts      how often contenders that are the same are told apart (a minute)
    python -m benchmarks.searches samplers      samplers on recorded curves of generators, replayed (minutes)
    python -m benchmarks.searches schedulers    asha beside no scheduler at equal device time, replayed (minutes)

`python -m benchmarks.curves` records the curves. The others take from a quarter of an hour to one and a half, on two
cores. --folder keeps the storages: what is there isn't run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import yaml
from numpy.typing import NDArray

from benchmarks.curves import CURVES, SPACE
from benchmarks.replay import VARIANTS, Fit, Landscape, mean_interval, replay, replay_scheduler
from dim_ray.config.study import Scheduler
from dim_ray.store.reader import Reader
from tuning.intervals import paired_interval

__all__ = ["main"]

_NUM_TRIALS = 16
_NUM_SLOTS = 2  # side by side, each with a thread
_FEW_STUDENTS = {
    "--ipc": "10",
    "--evaluation.protocols": "on_the_fly",
    "--evaluation.num_seeds": "1",
    "--study.control": "false",
}
"""As little evaluation as there can be: none of it is measured here."""


def _space(pool_sizes: Sequence[int], capacities: Sequence[int]) -> str:
    """Return the space of the study digits with other lists, without blanks."""
    space = {
        "pool.size": pool_sizes,
        "generator.capacity": capacities,
        "matching.weight": {"low": 0.03, "high": 1.0, "log": True},
        "matching.adversarial_weight": {"low": 0.5, "high": 3.0, "log": True},
    }
    return json.dumps(space, separators=(",", ":"))


_SHARING = {
    **_FEW_STUDENTS,
    "--num-trials": str(_NUM_TRIALS),
    "--study.scheduler": "none",
    "--study.space": _space([1, 2, 4, 8, 16], [16, 24]),
}
_SEARCHES = {**_FEW_STUDENTS, "--study.selection_seeds": "3"}
_ESTIMATED: Mapping[str, Mapping[str, str]] = {
    "digits": {},
    "no scheduler, 4 trials": {
        "--num-trials": "4",
        "--study.scheduler": "none",
        "--study.space": _space([1, 2, 4], [32]),
    },
    "large pools, few students": {**_FEW_STUDENTS, "--num-trials": "6", "--study.space": _space([8, 16], [16, 24])},
}
_NUM_SIMULATED = 200_000
_REPEATS, _REPLAYED, _FEW_REPEATS = 5, 200, 20
_LENGTHS = (8, 16, 32, 64)
_COMPARED_LONG = ("random", "qmc", "tpe")  # also in the longest
_SIDE_BY_SIDE = (1, 4, 8, 16)
_FITS: tuple[Fit, ...] = ("process", "forest")


def main(argv: Sequence[str]) -> None:
    """Run ``python -m benchmarks.searches``."""
    parser = argparse.ArgumentParser("python -m benchmarks.searches", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("name", choices=_MEASURED)
    parser.add_argument("--repeats", type=int, metavar="N", help="studies of each (default: 5; replayed ones, 200)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keeps the storages (default: a temporary one)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="dim_ray-bench-") as temporary:
        default = _REPLAYED if options.name in ("samplers", "schedulers") else _REPEATS
        _MEASURED[options.name](options.folder or Path(temporary), options.repeats or default)


def _sharing(folder: Path, repeats: int) -> None:
    """Compare device seconds of training, as the cards of all that was trained have them."""
    shared = folder / "shared"
    _tune(shared, _SHARING)
    rows = _trials(shared)

    def by_itself(number: int, config: str) -> float:
        storage = folder / f"single-{number}"
        storage.mkdir(parents=True, exist_ok=True)
        file = storage / "config.yaml"
        file.write_text(yaml.safe_dump(json.loads(config)), encoding="utf-8")
        _run(["dim_ray.distill", "--local", "--config", str(file), "--storage", str(storage)])
        return _trained_seconds(storage)

    with ThreadPoolExecutor(_NUM_SLOTS) as pool:
        each = list(pool.map(by_itself, rows["number"], rows["config_json"]))
    together = _trained_seconds(shared)
    booked = rows["device_seconds"].sum() + rows["saved_device_seconds"].sum()
    print(f"{len(rows)} trials of one study: {together:.0f} device seconds of training")
    print(f"one by one, nothing shared: {sum(each):.0f}, {sum(each) / together:.2f} times as much")
    print(f"by the study's own rows, students that validate included, one by one: {booked:.0f}")


def _warm_start(folder: Path, repeats: int) -> None:
    """Count trials until the best accuracy of a cold study is reached."""
    for same_seed in (True, False):
        reached = []
        for repeat in range(repeats):
            storage = folder / f"search-{repeat}"
            _tune(storage, _cold(repeat))
            best = _best(_of(storage, "cold"))
            name = f"warm-{'same' if same_seed else 'other'}"
            seed = repeat if same_seed else 100 + repeat
            _tune(
                storage,
                {
                    **_SEARCHES,
                    "--study": name,
                    "--num-trials": "8",
                    "--warm-start": "cold",
                    "--study.seed": str(100 + repeat),
                    "--matching.seed": str(seed),
                },
            )
            warm = _of(storage, name)
            good = warm[(warm["state"] == "completed") & (warm["objective"] >= best)]
            reached.append(None if good.empty else int(good["number"].min()) + 1)
            print(f"  cold best {best:.4f}; warm {_best(warm):.4f}, reached at trial {reached[-1]}", flush=True)
        seeds = "the same seed of matching" if same_seed else "another seed of matching"
        within = sum(number is not None for number in reached)
        print(f"warm start with {seeds}: {within} of {repeats} within 8 trials; at trial {reached}")


def _dry_run(folder: Path, repeats: int) -> None:
    """Compare the estimate with the study, which follows it on a new storage."""
    for name, flags in _ESTIMATED.items():
        storage = folder / f"estimated-{name.replace(' ', '-').replace(',', '')}"
        plan = _run(["dim_ray.tune", "--dry-run", "--storage", str(storage), *_words(flags)])
        estimated = _seconds(re.search(r"^time +about (.*?),", plan, re.MULTILINE)[1])  # type: ignore[index]
        began = time.monotonic()
        _tune(storage, flags)
        took = time.monotonic() - began
        print(f"{name}: estimated {estimated:.0f} s, took {took:.0f} s: {estimated / took - 1:+.0%}", flush=True)


def _verdicts(folder: Path, repeats: int) -> None:
    """Simulate studies whose contenders are the same, so that each one that is found ahead is a mistake."""
    rng = np.random.default_rng(0)

    def are_told_apart(accuracies: NDArray[np.float64]) -> bool:
        first, second, *_ = np.argsort(-accuracies.mean(axis=1))
        return paired_interval((accuracies[first] - accuracies[second]).tolist()).is_above_zero

    for num_contenders, seeds in ((2, [5]), (3, [5]), (2, [5, 10, 20])):
        studies = rng.standard_normal((_NUM_SIMULATED, num_contenders, max(seeds)))
        wrong = sum(any(are_told_apart(study[:, :count]) for count in seeds) for study in studies)
        print(
            f"{num_contenders} contenders, looked at after {', '.join(map(str, seeds))} students: told apart in "
            f"{wrong / _NUM_SIMULATED:.1%} of {_NUM_SIMULATED:,} studies",
            flush=True,
        )
    studies = rng.standard_normal((_NUM_SIMULATED, 4, 5))  # three contenders, and the control of the best one
    gains = [study[study[:3].mean(axis=1).argmax()] - study[3] for study in studies]
    wrong = sum(paired_interval(gain.tolist()).is_above_zero for gain in gains)
    flattery = np.mean(gains)
    print(f"a control that is the same: behind in {wrong / _NUM_SIMULATED:.1%}, by {flattery:.2f} standard deviations")


def _samplers(folder: Path, repeats: int) -> None:
    """Replay studies of each sampler, and print the regret of the trial that is kept, and of the best one."""
    landscapes = {fit: _landscape(fit) for fit in _FITS}
    for (fit, landscape), num_slots in itertools.product(landscapes.items(), _SIDE_BY_SIDE):
        print(f"\n{fit}, {num_slots} side by side; regret in points after {', '.join(map(str, _LENGTHS))} trials")
        for name, variant in VARIANTS.items():
            count = min(repeats, _FEW_REPEATS) if name == "gp" else repeats  # a tenth of a second per draw
            kept, best = [], []
            for length in _LENGTHS if name in _COMPARED_LONG else _LENGTHS[:-1]:
                ends = [
                    replay(landscape, variant, num_trials=length, num_slots=num_slots, seed=seed)[-1]
                    for seed in range(count)
                ]
                kept.append(_regret(end[0] for end in ends))
                best.append(_regret(end[1] for end in ends))
            print(f"  {name:30} kept {'  '.join(kept)}; best {'  '.join(best)} (n = {count})", flush=True)


def _schedulers(folder: Path, repeats: int) -> None:
    """Replay studies with and without asha, and print the regret after equal device seconds."""
    landscape = _landscape()
    one = landscape.epochs * landscape.epoch_seconds + landscape.student_seconds
    names: tuple[Scheduler, ...] = ("none", "asha")
    print(f"\nregret in points after the device time of {', '.join(map(str, _LENGTHS[:3]))} trials with one student")
    for name in names:
        columns = []
        for length in _LENGTHS[:3]:
            ends = [
                replay_scheduler(landscape, name, budget_seconds=length * one, num_slots=4, seed=seed)
                for seed in range(repeats)
            ]
            columns.append(_regret(own[-1][1] for own in ends))
        print(f"  {name:8} {'  '.join(columns)}  (n = {repeats})", flush=True)


def _landscape(fit: Fit = "process") -> Landscape:
    """Read the recorded curves, and print how well they are fitted."""
    optuna.logging.disable_default_handler()
    warnings.simplefilter("ignore")  # of fits at their bounds, and of what is experimental
    landscape = Landscape(pd.read_parquet(CURVES), SPACE, fit)
    error, average = landscape.held_out()
    print(
        f"{landscape.num_generators} generators, {fit}; error of held-out means {100 * error:.2f} points, of their "
        f"average {100 * average:.2f}; a student's spread {100 * landscape.student_std:.2f}, the landscape's "
        f"{100 * landscape.spread:.2f}; an epoch {landscape.epoch_seconds:.1f} s, a student "
        f"{landscape.student_seconds:.1f} s"
    )
    return landscape


def _regret(values: Iterable[float]) -> str:
    mean, half = mean_interval(list(values))
    return f"{100 * mean:.2f} ± {100 * half:.2f}"


_MEASURED: Mapping[str, Callable[[Path, int], None]] = {
    "sharing": _sharing,
    "warm-start": _warm_start,
    "dry-run": _dry_run,
    "verdicts": _verdicts,
    "samplers": _samplers,
    "schedulers": _schedulers,
}


def _cold(repeat: int) -> dict[str, str]:
    return {
        **_SEARCHES,
        "--study": "cold",
        "--num-trials": str(_NUM_TRIALS),
        "--study.seed": str(repeat),
        "--matching.seed": str(repeat),
    }


def _tune(storage: Path, flags: Mapping[str, str]) -> None:
    _run(["dim_ray.tune", "--storage", str(storage), *_words(flags)])


def _words(flags: Mapping[str, str]) -> list[str]:
    return [word for flag, value in flags.items() for word in (flag, *value.split())]


def _run(arguments: Sequence[str]) -> str:
    """Run a module with a thread a process, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def _trials(storage: Path) -> pd.DataFrame:
    return Reader(str(storage)).trials()


def _of(storage: Path, study: str) -> pd.DataFrame:
    return Reader(str(storage)).trials(study=study)


def _best(rows: pd.DataFrame) -> float:
    return float(rows.loc[rows["state"] == "completed", "objective"].max())


def _trained_seconds(storage: Path) -> float:
    cards = [file for kind in ("teachers", "priors", "generators") for file in storage.glob(f"{kind}/*/card.json")]
    return float(sum(json.loads(card.read_text(encoding="utf-8"))["wall_seconds"] for card in cards))


def _seconds(text: str) -> float:
    units = {"h": 3600.0, "min": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) (h|min|s)\b", text))


if __name__ == "__main__":
    main(sys.argv[1:])
