"""What a driver does in a large study on an object store, and whether its trials wait for it.

    python -m benchmarks scale                                    1,000 trials in 64 slots, 10,000 evaluations
    python -m benchmarks scale --trials 40 --slots 8 --evaluations 200 --latency 0.001

Real: Optuna and its journal, the search, the study's record and claim, rows, and pyarrow's client over HTTP
to a server (moto) that answers each request after a latency. Simulated: the time of training, which is added to a clock
and not slept; what workers write, which is put into the server at once. Left out: Ray's own processes and Tune's loop.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna

from benchmarks.late_storage import LateStorage, late_storage
from benchmarks.storage import row
from dim_ray.config import Config, MatchingConfig, StorageConfig, StudyConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.errors import UsageError
from dim_ray.pipeline.generators import generator_fingerprint, weights_file
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.artifacts import FORMAT_VERSION, seal_card
from dim_ray.store.files.copies import Copy
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.reader import Reader
from dim_ray.store.row_files import folder_key
from dim_ray.store.rows import check_row
from dim_ray.store.schema import EVALUATION_TABLE
from tuning.cost import network_keys
from tuning.record import StudyRecord
from tuning.search.journal import open_journal
from tuning.search.optuna_search import METRIC, SECONDS, TIME_ATTRIBUTE, StudySearch
from tuning.search.settling import settle
from tuning.search.space import configure
from tuning.search.time_budget import TimeBudget

__all__ = ["main", "simulate"]

_REPORTS = 6
"""Results that a trial reports."""
_DRAWN_SECONDS, _JOURNAL_SECONDS = 10.0, 60.0
"""The journal is copied so soon after a trial was drawn, and so often anyway."""
_SPREAD = 0.3
"""Trials take so much more or less, at random."""
_STUDY = "scale"
_POOL_SIZES, _CAPACITIES = [1, 2, 4], [16, 24, 32]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size of a simulated study."""

    trials: int = 1000
    slots: int = 64
    evaluations: int = 10_000
    latency: float = 0.05
    """Seconds that the storage takes to answer."""
    trial_seconds: float = 300.0


def main(argv: Sequence[str]) -> None:
    """Run ``python -m benchmarks scale``."""
    parser = argparse.ArgumentParser("python -m benchmarks scale", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    for name, help_text in (
        ("trials", "trials of the study"),
        ("slots", "trials at a time"),
        ("evaluations", "rows whose ids are looked up"),
        ("latency", "seconds for each request"),
        ("trial_seconds", "seconds of a trial, on average"),
    ):
        usual = getattr(Scale, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(usual), default=usual, metavar="N",
                            help=f"{help_text} (default: {usual})")  # fmt: skip
    scale = Scale(**vars(parser.parse_args(argv)))
    if min(scale.trials, scale.slots, scale.trial_seconds) <= 0 or min(scale.evaluations, scale.latency) < 0:
        raise UsageError(f"the study would be {scale}; allowed: numbers above 0.")
    print(scale)
    for stage, measured in simulate(scale):
        print(f"{stage:<34}", ", ".join(f"{name} {value:,.10g}" for name, value in measured.items()), flush=True)


def simulate(scale: Scale) -> Iterator[tuple[str, dict[str, float]]]:
    """Run a study, and yield each stage's name with seconds, requests and bytes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with late_storage(scale.latency) as storage:
        counter = _Counter(storage)
        work = _workspace(storage.root, scale)
        _write_networks(storage, work)
        record = StudyRecord(work)
        with record.held(), TemporaryDirectory() as folder:
            yield from _run(scale, storage, counter, work, record, Path(folder))
        record = StudyRecord(work)  # as after the loss of the driver
        with record.held(), TemporaryDirectory() as folder, counter.measuring() as measured:
            _search(record, work, Path(folder, "lost"), 1)
            record.best()
        yield "continued, all trials being done", measured
        ids = _write_evaluations(storage, scale.evaluations)
        reader = Reader(storage.root)
        with counter.measuring() as measured:
            assert reader.ids(EVALUATION_TABLE, dataset="something", id=ids) == set(ids)
        yield f"ids of {len(ids):,} evaluations", measured


def _run(
    scale: Scale, storage: LateStorage, counter: _Counter, work: Workspace, record: StudyRecord, folder: Path
) -> Iterator[tuple[str, dict[str, float]]]:
    """Run the trials, each in a slot, as Ray Tune's loop would call the search."""
    with counter.measuring() as measured:
        record.open()
        search = _search(record, work, folder, scale.trials)
    yield "a new study begins", measured
    copy = Copy(folder / "journal", open_root(storage.root), f"studies/{_STUDY}/optuna.journal.gz")
    rng = random.Random(0)
    lengths = [scale.trial_seconds * rng.uniform(1 - _SPREAD, 1 + _SPREAD) for _ in range(scale.trials)]
    clock = _Clock()
    events: list[tuple[float, str, int, float]] = []  # the next report of each running trial
    names = iter(range(scale.trials))
    is_drawn, copied_at = False, 0.0

    def begin() -> None:
        number = next(names, None)
        if number is not None:
            clock.spend(lambda: search.suggest(str(number)))
            nonlocal is_drawn
            is_drawn = True
            heapq.heappush(events, (clock.now + lengths[number] / _REPORTS, str(number), 1, lengths[number]))

    before_bytes = _peak_bytes()
    with counter.measuring() as measured:
        for _ in range(scale.slots):
            begin()
        while events:
            at, name, epoch, length = heapq.heappop(events)
            clock.now = max(clock.now, at)
            if clock.now - copied_at >= (_DRAWN_SECONDS if is_drawn else _JOURNAL_SECONDS):
                is_drawn, copied_at = False, clock.now
                copy.put()  # by a thread of its own in a study
            result = {METRIC: 0.5 + 0.4 * rng.random(), TIME_ATTRIBUTE: epoch, SECONDS: epoch * length / _REPORTS}
            if epoch < _REPORTS:
                clock.spend(partial(search.on_trial_result, name, result))
                heapq.heappush(events, (max(at, clock.now) + length / _REPORTS, name, epoch + 1, length))
            else:
                _write_generator(storage, work, search.lookup(name)[1])
                clock.spend(partial(search.on_trial_complete, name, result))
                begin()
        copy.put()
    ideal = _without_driver(lengths, scale.slots)
    yield (
        f"{scale.trials:,} trials",
        {
            "driver seconds a trial": clock.spent / scale.trials,
            "beyond training %": 100 * (clock.now / ideal - 1),
            "memory MB": _peak_bytes() / 1e6,
            "of it by trials MB": (_peak_bytes() - before_bytes) / 1e6,
            **{name: value for name, value in measured.items() if name != "seconds"},
        },
    )


class _Clock:
    """Time of a simulated study: training passes at once, the driver's work as it is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.spent = 0.0

    def spend(self, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
        self.now += seconds
        self.spent += seconds


class _Counter:
    """What the server counts while something runs."""

    def __init__(self, storage: LateStorage) -> None:
        self._storage = storage

    @contextmanager
    def measuring(self) -> Iterator[dict[str, float]]:
        before, began = self._storage.counts(), time.perf_counter()
        measured: dict[str, float] = {}
        yield measured
        measured["seconds"] = round(time.perf_counter() - began, 2)
        measured |= {name: value - before.get(name, 0) for name, value in self._storage.counts().items()}


def _without_driver(lengths: Sequence[float], num_slots: int) -> float:
    """Return how long the trials would take if the next one began at once."""
    free = [0.0] * num_slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _workspace(root: str, scale: Scale) -> Workspace:
    space = {
        "pool.size": _POOL_SIZES,
        "generator.capacity": _CAPACITIES,
        "matching.weight": {"low": 0.03, "high": 3.0, "log": True},
        "matching.adversarial_weight": {"low": 0.1, "high": 10.0, "log": True},
    }
    config = Config(
        matching=MatchingConfig(epochs=_REPORTS),
        study=StudyConfig(num_trials=scale.trials, space=space, contenders=1, control=False),
        storage=StorageConfig(root=root),
    )
    return Workspace(config=config, dataset=load_dataset(config.data), study=_STUDY)


def _search(record: StudyRecord, work: Workspace, folder: Path, num_trials: int) -> StudySearch:
    """Open the search as `tuning.tuner` does."""
    journal = open_journal(folder / "journal", is_lasting=False)
    settle(journal, work.study, work.config, finished=record.finished(), failed=record.failed())
    budget = TimeBudget(work.config)
    return StudySearch(work.config, journal, work.study, record=record, num_trials=num_trials, time_budget=budget)


def _write_networks(storage: LateStorage, work: Workspace) -> None:
    for size, capacity in itertools.product(_POOL_SIZES, _CAPACITIES):
        pool, generator = replace(work.config.pool, size=size), replace(work.config.generator, capacity=capacity)
        for key in network_keys(replace(work, config=replace(work.config, pool=pool, generator=generator))):
            kind, _, name = key.partition("/")
            _write_card(storage, kind, name, {})


def _write_generator(storage: LateStorage, work: Workspace, parameters: Mapping[str, Any]) -> None:
    name = generator_fingerprint(replace(work, config=configure(work.config, parameters)))
    _write_card(storage, "generators", name, {weights_file("raw"): b"weights", weights_file("average"): b"weights"})


def _write_card(storage: LateStorage, kind: str, name: str, files: Mapping[str, bytes]) -> None:
    card = {"format_version": FORMAT_VERSION, "kind": kind, "fingerprint": name, "wall_seconds": 60.0}
    storage.put(f"{kind}/{name}/card.json", seal_card(card, files))


def _write_evaluations(storage: LateStorage, count: int) -> list[str]:
    """Write a file for each evaluation, as workers do, and return their ids; nobody opens them."""
    rows = [check_row(EVALUATION_TABLE, row(number)) for number in range(count)]
    storage.fill([f"{folder_key(EVALUATION_TABLE, own)}/{own['id']}.parquet" for own in rows])
    return [own["id"] for own in rows]


def _peak_bytes() -> int:
    """Return the most memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
