"""Random interleavings of append, retry, crash, compact and merge: no row is ever lost, doubled or old."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dim_ray.store.reader import Reader
from dim_ray.store.row_files import row_of
from dim_ray.store.rows import row_id
from dim_ray.store.schema import TRIAL_TABLE
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.upkeep.merging import merge
from dim_ray.store.upkeep.verification import verify
from dim_ray.store.writer import Writer
from tests.helpers.disk_steps import Crash, Hook, steps
from tests.helpers.made_rows import trial

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_QUICK, _MANY = 60, 2_000
_IDS = {row_id(TRIAL_TABLE, trial(number=number)): number for number in range(5)}
_MEMORY = Path("/dev/shm")  # where there is one, so that flushing to the disk costs nothing

_numbers = st.integers(0, 4)
_steps = st.integers(0, 4) | st.integers(0, 25)
_interferences = st.one_of(
    st.none(),
    st.tuples(st.just("crash"), _steps),
    st.tuples(st.just("append"), _steps, _numbers),
    st.tuples(st.just("append the same"), _steps),
    st.tuples(st.just("compact"), _steps),
    st.tuples(st.just("read"), _steps),
)
_actions = st.one_of(
    st.tuples(st.just("append"), _numbers, _interferences),
    st.tuples(st.just("append theirs"), _numbers),
    st.tuples(st.just("compact"), st.sampled_from([2, 3, 100]), _interferences),
    st.tuples(st.just("compact theirs")),
    st.tuples(st.just("merge"), _interferences),
    st.tuples(st.just("read"), _interferences),
)


class Stores:
    """Two storages, and what should be in them: trials by number, each with the objective that was written last."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.theirs = str(folder / "ours"), str(folder / "theirs")
        self.expected: dict[int, float] = {}
        self.expected_theirs: dict[int, float] = {}
        self.clock = 0
        self.writing: int | None = None

    def append(self, number: int) -> None:
        objective = self._write(self.ours, number)
        self.expected[number] = objective

    def append_theirs(self, number: int) -> None:
        self.expected_theirs[number] = self._write(self.theirs, number)

    def merge(self) -> None:
        if self.expected_theirs:
            merge(self.ours, self.theirs)
            self.expected = self.expected_theirs | self.expected

    def read(self) -> None:
        before = dict(self.expected)
        rows = Reader(self.ours).trials()
        assert dict(zip(rows["number"], rows["objective"], strict=True)) in (before, self.expected)
        assert rows["number"].is_unique

    def check(self) -> None:
        for root, expected in ((self.ours, self.expected), (self.theirs, self.expected_theirs)):
            rows = Reader(root).trials()
            assert rows["number"].is_unique
            assert dict(zip(rows["number"], rows["objective"], strict=True)) == expected

    def do(self, action: tuple[object, ...]) -> None:
        name, *rest = action
        calls: dict[object, Callable[..., object]] = {
            "append": lambda number, _: self.append(number),
            "append theirs": self.append_theirs,
            "compact": lambda limit, _: compact(self.ours, rows_per_pack=limit),
            "compact theirs": lambda: compact(self.theirs),
            "merge": lambda _: self.merge(),
            "read": lambda _: self.read(),
        }
        interference = rest[-1] if rest and isinstance(rest[-1], tuple) else None
        before = dict(self.expected)
        self.writing = rest[0] if name == "append" else None  # type: ignore[assignment]
        try:
            with steps(self._hook(interference)):
                calls[name](*rest)
        except Crash:
            self._settle(before, action)
        self.check()

    def _write(self, root: str, number: int) -> float:
        self.clock += 1
        objective = self.clock / 10_000
        created_at = _EPOCH + timedelta(seconds=self.clock)
        Writer(root).append_trial(trial(number=number, objective=objective, created_at=created_at, generator=None))
        return objective

    def _hook(self, interference: tuple[object, ...] | None) -> Hook:
        count = -1

        def hook(step: str, path: str) -> None:
            nonlocal count
            count += 1
            if interference is None or count != interference[1]:
                return
            what, _, *rest = interference
            if what == "append the same":
                name = row_of(path.rpartition("/")[2])
                if path.startswith(self.ours) and name in _IDS and _IDS[name] != self.writing:
                    self.append(_IDS[name])
            elif what == "crash":
                raise Crash(step)
            elif what == "append":
                if rest[0] != self.writing:  # of two writers of one row at once, either may be the last
                    self.append(*rest)  # type: ignore[arg-type]
            elif what == "compact":
                compact(self.ours)
            else:
                assert len(Reader(self.ours).trials()) >= len(self.expected)

        return hook

    def _settle(self, before: dict[int, float], action: tuple[object, ...]) -> None:
        """Takes from the storage what a process that died may have done or not: all of it, or nothing, for each row."""
        rows = Reader(self.ours).trials()
        there = dict(zip(rows["number"], rows["objective"], strict=True))
        possible = [before, self.expected]
        if action[0] == "append":
            possible.append(before | {action[1]: self.clock / 10_000})  # type: ignore[dict-item]
        if action[0] == "merge":
            possible.append(self.expected_theirs | before)
        assert there in possible
        self.expected = there


def check_history(actions: list[tuple[object, ...]]) -> None:
    folder = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        stores = Stores(folder)
        for action in actions:
            stores.do(action)
        compact(stores.ours)
        stores.check()
        assert verify(stores.ours).problems == ()
    finally:
        shutil.rmtree(folder)


_histories = st.lists(_actions, min_size=2, max_size=7)
_TWO = [("append", 0, None), ("append", 1, None)]
_profile = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@example([*_TWO, ("compact", 100, ("crash", 6)), ("append", 0, None)])
@example([*_TWO, ("compact", 100, ("append the same", 5)), ("compact", 100, None)])
@example([*_TWO, ("compact", 100, ("append the same", 6)), ("compact", 100, None)])
@example([*_TWO, ("compact", 100, ("append the same", 7)), ("compact", 100, None)])
@example([*_TWO, ("read", ("compact", 0))])
@example([*_TWO, ("read", ("compact", 1))])
@example([*_TWO, ("append theirs", 3), ("merge", ("compact", 3))])
@example([*_TWO, ("append theirs", 0), ("append theirs", 2), ("merge", ("append", 2, 3))])
@settings(_profile, max_examples=_QUICK)
@given(_histories)
def test_no_interleaving_loses_doubles_or_ages_a_row(actions: list[tuple[object, ...]]) -> None:
    check_history(actions)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
@settings(_profile, max_examples=_MANY, derandomize=False)
@given(_histories)
def test_no_interleaving_of_thousands_loses_doubles_or_ages_a_row(actions: list[tuple[object, ...]]) -> None:
    check_history(actions)
