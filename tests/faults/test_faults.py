"""The quickest of the scenarios that no other test covers; `python -m tests.faults` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS

AGAIN_SECONDS = 60.0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # a machine that is busy with other things
def test_study_goes_on_without_a_word_where_the_node_that_trains_is_lost(tmp_path: Path) -> None:
    harms = SCENARIOS["node"](tmp_path)
    assert [harm.stage for harm in harms] == ["teacher", "trial 0"]
    for harm in harms:
        assert harm.is_finished
        assert harm.again_seconds < AGAIN_SECONDS
        assert (harm.num_lost, harm.num_doubled) == (0, 0)
