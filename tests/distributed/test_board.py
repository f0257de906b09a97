"""The node of the board, and what it knows of others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from dim_ray.distributed import board
from dim_ray.distributed.board import Board, is_given_up
from tests.helpers.ray_nodes import nodes, run_command

WHERE = """
import ray
from dim_ray.distributed.board import make_board

ray.init(log_to_driver=False)
boards = [make_board() for _ in range(6)]
ray.get([board.read.remote() for board in boards])
own = ray.get_runtime_context().get_node_id()
alive = ray._private.state.actors()
print("away:", sum(alive[board._actor_id.hex()]["Address"]["NodeID"] != own for board in boards))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_every_board_is_on_its_drivers_own_node(tmp_path: Path) -> None:
    with nodes({}, {}, {}) as address:
        asked = run_command(address, ["-c", WHERE], cwd=tmp_path)
    assert asked.stdout.splitlines()[-1:] == ["away: 0"], asked.stdout + asked.stderr


def test_job_is_given_up_after_deaths_of_its_own_and_not_after_those_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    known, alive = Board(), ["a", "b"]
    pauses: list[float] = []
    monkeypatch.setattr(board, "time", SimpleNamespace(sleep=pauses.append))
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": node, "Alive": node in alive} for node in "abcd"])
    assert known.begin("job", "a") == []
    assert known.begin("job", "c") == ["a"]
    assert known.begin("job", "d") == ["a", "c"]
    nodes = known.nodes("job")
    assert (nodes, known.nodes("other")) == (["a", "c", "d"], [])
    assert not is_given_up(nodes, 3, most=1)
    assert not is_given_up(nodes, 4, most=2)  # one died before it said where it was
    assert pauses == [0.0, 0.0]
    assert is_given_up(nodes, 4, most=1)
    pauses.clear()
    alive[:] = ["a", "c"]
    monkeypatch.setattr(board, "num_lost", lambda nodes: len(pauses))  # the last one is known to be lost later
    assert not is_given_up(nodes, 3, most=1)
    assert pauses[-1] > 0
