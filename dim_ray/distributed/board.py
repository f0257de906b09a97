"""An actor that collects progress and notices from jobs on any node.

    board = make_board()
    board.post.remote("teacher 0", 0.5)
    share, note = summarise(ray.get(board.read.remote()), costs={"teacher 0": 1.0, "teacher 1": 1.0})

The actor's process imports only this module: without torch it starts sooner and takes hundreds of megabytes less.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Board", "is_given_up", "make_board", "num_lost", "summarise"]

_LARGEST_NOTE = 4  # jobs that are named
_NEWS_SECONDS = 20.0  # within which Ray finds out that a node is lost, after its processes died


class Board:
    """Fractions done by job, and notices for the user."""

    def __init__(self) -> None:
        self._done: dict[str, float] = {}
        self._notices: list[str] = []
        self._nodes: dict[str, list[str]] = {}

    def begin(self, job: str, node: str) -> list[str]:
        """Record that a process for a job has begun on a node, and return the nodes of those before it."""
        before = self.nodes(job)
        self._nodes[job] = [*before, node]
        return before

    def nodes(self, job: str) -> list[str]:
        """Return the nodes on which processes for a job have begun."""
        return self._nodes.get(job, [])

    def post(self, job: str, done: float) -> None:
        """Record the fraction in [0, 1] that a job has done; a late post doesn't reopen a finished job."""
        if self._done.get(job) != 1.0:
            self._done[job] = done

    def read(self) -> dict[str, float]:
        """Return the fraction done of each job that has posted one."""
        return self._done

    def tell(self, text: str) -> None:
        """Record a notice for the user."""
        self._notices.append(text)

    def take_notices(self) -> list[str]:
        """Return the notices recorded since the last call."""
        taken, self._notices = self._notices, []
        return taken


def make_board() -> ray.actor.ActorHandle[Board]:
    """Start a board that takes no CPU, on this process's node: with another node it would be lost, and the run too."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()


def is_given_up(nodes: Sequence[str], num_deaths: int, most: int) -> bool:
    """Return whether more than so many processes of a job died by themselves, and not with their node.

    Args:
        nodes: On which the job's processes began.
        num_deaths: Of these processes, and of those that died before they could say where they were.
        most: Deaths that are allowed.
    """
    for pause in (0.0, _NEWS_SECONDS):
        time.sleep(pause)
        if num_deaths - num_lost(nodes) <= most:
            return False
    return True


def num_lost(nodes: Sequence[str]) -> int:
    """Return how many of these nodes have left the cluster."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return sum(node not in alive for node in nodes)


def summarise(fractions: Mapping[str, float], costs: Mapping[str, float]) -> tuple[float, str]:
    """Return the share of all work that is done, in [0, 1], and a note on the jobs that are running.

    Args:
        fractions: Fraction done, in [0, 1], of each job that has reported.
        costs: Cost of each job, in any one unit.
    """
    done = sum(cost * fractions.get(job, 0.0) for job, cost in costs.items())
    running = [f"{job} {fractions[job]:.0%}" for job in costs if 0 < fractions.get(job, 0.0) < 1]
    more = [f"{len(running) - _LARGEST_NOTE} more"] if len(running) > _LARGEST_NOTE else []
    return done / sum(costs.values()), ", ".join(running[:_LARGEST_NOTE] + more)
