"""A study whose driver is killed at random moments."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.helpers.runs import LONG, Run, evaluations, files, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3000)]

NUM_TRIALS, NUM_KILLS = 12, 10
STARTING_SECONDS, TRAINING_SECONDS, ENDING_SECONDS = 20.0, 12.0, 1.0  # within which a driver is killed


def test_driver_killed_at_random_moments_loses_and_doubles_nothing(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**LONG, "--num-trials": str(NUM_TRIALS)}
    rng = random.Random(0)
    num_finished = []
    for kill in range(NUM_KILLS):
        killed = Run(storage, flags)
        try:
            _wait(killed, kill % 3, rng)
            killed.kill()
        finally:
            killed.clear()
        kept = files(storage)
        assert trials(storage)["number"].is_unique
        num_finished.append(len(trials(storage)))
    last = run(storage, flags)
    assert last.returncode == 0, f"{last.stderr}\n{last.log()}"
    rows = trials(storage)
    assert rows["number"].tolist() == list(range(NUM_TRIALS))
    assert set(rows["state"]) == {"completed"}
    assert rows["params_json"].nunique() == NUM_TRIALS
    after = files(storage)
    assert {name: after[name] for name in kept} == kept  # nothing that was there was made again
    assert len(evaluations(storage)) == 1
    assert len(set(num_finished)) > 2, num_finished  # the kills met different moments
    assert last.leftovers() == {}


def _wait(run: Run, stage: int, rng: random.Random) -> None:
    """Wait for a random moment: during the start, a trial's training, or around a trial's end."""
    if stage == 0:
        time.sleep(rng.uniform(0.0, STARTING_SECONDS))
        return
    num_begun, num_rows = run.log().count(" began: "), len(trials(run.storage))
    run.wait_for(lambda: run.log().count(" began: ") > num_begun, "a trial")
    if stage == 2:
        run.wait_for(lambda: len(list(run.storage.glob("trials/*/*.parquet"))) > num_rows, "a row")
        time.sleep(rng.uniform(0.0, ENDING_SECONDS))
    else:
        time.sleep(rng.uniform(0.0, TRAINING_SECONDS))
