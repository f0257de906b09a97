"""A small study of the benchmark `scale`: its storage counts, and a driver asks little of it."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from benchmarks.scale import Scale, simulate
from dim_ray.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a machine that is busy with other things


@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, float]]:
    return dict(simulate(Scale(trials=16, slots=4, evaluations=300, latency=0.001)))


def test_trial_costs_few_requests_and_the_journal_one_each_minute_and_for_drawn_trials(
    stages: dict[str, dict[str, float]],
) -> None:
    trials = stages["16 trials"]
    assert 16 <= trials["requests"] - trials["journal requests"] <= 16 * 5 + 50  # a row, a card; networks' cards
    minutes = 16 / 4 * 300 / 60
    assert minutes / 2 <= trials["journal requests"] <= 1.3 * minutes + 16 + 2
    assert 0 < trials["journal bytes sent"] < 16 * 100_000
    assert trials["beyond training %"] > 0
    assert trials["driver seconds a trial"] < 30


def test_continued_study_reads_each_row_once(stages: dict[str, dict[str, float]]) -> None:
    assert stages["continued, all trials being done"]["requests"] <= 2 * 16 + 10


def test_ids_are_looked_up_in_listings(stages: dict[str, dict[str, float]]) -> None:
    assert stages["ids of 300 evaluations"]["requests"] <= 30


def test_size_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="slots=0"):
        main(["scale", "--slots", "0"])
