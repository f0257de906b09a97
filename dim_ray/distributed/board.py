"""One small actor that knows how far every job is, and what a person should know: jobs write to it from any node.

    board = make_board()
    board.post.remote("teacher 0", 0.5)
    ray.get(board.read.remote())      # in the driver

Its process imports this module alone, and neither torch nor the project's other parts: that saves it hundreds of
megabytes and the seconds that they take.
"""

from __future__ import annotations

import ray

__all__ = ["Board", "make_board"]


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
    """Starts a board; it takes no CPU from the jobs."""
    return ray.remote(num_cpus=0)(Board).remote()
