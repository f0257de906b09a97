"""One small actor that knows how far every job is, and what a person should know: jobs write to it from any node.

    board = make_board()
    board.post.remote("teacher 0", 0.5)
    share, note = summarise(ray.get(board.read.remote()), costs={"teacher 0": 1.0, "teacher 1": 1.0})

Its process imports this module alone, and neither torch nor the project's other parts: that saves it hundreds of
megabytes and the seconds that they take.
"""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Board", "make_board", "summarise"]

_LARGEST_NOTE = 4  # jobs that are named


class Board:
    """Fractions done by job, and sentences for the person."""

    def __init__(self) -> None:
        self._done: dict[str, float] = {}
        self._notices: list[str] = []

    def post(self, job: str, done: float) -> None:
        """Notes the fraction in [0, 1] that a job has done."""
        self._done[job] = done

    def read(self) -> dict[str, float]:
        """Returns all fractions."""
        return self._done

    def tell(self, text: str) -> None:
        """Notes a sentence for the person."""
        self._notices.append(text)

    def take_notices(self) -> list[str]:
        """Returns the sentences that came since the last call."""
        taken, self._notices = self._notices, []
        return taken


def make_board() -> ray.actor.ActorHandle[Board]:
    """Starts a board on this process's node; it takes no CPU from the jobs.

    Ray puts an actor that asks for nothing on any node; it would be lost with that one, and with it the run.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()


def summarise(fractions: Mapping[str, float], costs: Mapping[str, float]) -> tuple[float, str]:
    """Returns the share of all work that is done, in [0, 1], and how far each running job is, as text.

    Args:
        fractions: Done of each job that was heard of, in [0, 1].
        costs: What each job takes, in any one unit.
    """
    done = sum(cost * fractions.get(job, 0.0) for job, cost in costs.items())
    running = [f"{job} {fractions[job]:.0%}" for job in costs if 0 < fractions.get(job, 0.0) < 1]
    more = [f"{len(running) - _LARGEST_NOTE} more"] if len(running) > _LARGEST_NOTE else []
    return done / sum(costs.values()), ", ".join(running[:_LARGEST_NOTE] + more)
