"""Many writers at once, of which a third are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from dim_ray.store.reader import Reader
from dim_ray.store.upkeep.compaction import compact
from dim_ray.store.upkeep.verification import verify

_WRITERS, _ROWS = 64, 2_000
_WRITER = """
import sys
sys.stdin.readline()  # all at once
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation

writer = Writer(sys.argv[1])
for seed in range(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])):
    writer.append_evaluations([evaluation(seed=seed)])
    print(seed, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_acknowledged_row_of_64_writers_is_there_once_though_a_third_are_killed(tmp_path: Path) -> None:
    root = str(tmp_path)
    numbers = [str(_ROWS), str(_WRITERS)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, root, str(first), *numbers],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first in range(_WRITERS)
    ]  # fmt: skip
    try:
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.close()
        with ThreadPoolExecutor(_WRITERS) as threads:
            early = list(threads.map(_kill_early, writers[::3], range(_WRITERS)))
        acknowledged = [seed for seeds in early for seed in seeds]
        compact(root)  # while the others write
        for writer in writers:
            assert writer.stdout is not None
            acknowledged += [int(line) for line in writer.stdout.read().splitlines() if line]
            writer.wait()
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    killed = [writer for writer in writers if writer.returncode == -signal.SIGKILL]
    assert len(killed) >= 20
    assert sum(writer.returncode == 0 for writer in writers) == _WRITERS - len(killed)
    seeds = list(Reader(root).evaluations()["seed"])
    assert len(set(seeds)) == len(seeds)
    assert set(acknowledged) <= set(seeds)
    assert len(set(seeds) - set(acknowledged)) <= len(killed)  # written, and killed before it was said
    assert len(acknowledged) > _ROWS // 2
    assert [problem for problem in verify(root).problems if "is missing" not in problem] == []
    compact(root)
    assert sorted(pd.read_parquet(f"{root}/evaluations")["seed"]) == sorted(seeds)


def _kill_early(writer: subprocess.Popen[str], number: int) -> list[int]:
    """Kills a writer in the middle of its work, and returns what it had acknowledged so far."""
    assert writer.stdout is not None
    seeds = [int(writer.stdout.readline()) for _ in range(number % 4)]
    writer.send_signal(signal.SIGKILL)
    return seeds
