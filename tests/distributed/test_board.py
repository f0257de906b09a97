"""The node of the board."""

from __future__ import annotations

from pathlib import Path

import pytest

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
