"""What a study survives: each function really does it, on a cluster of this machine, and returns what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.cluster import Node, RayCluster, kill
from tests.faults.study import Harm, HarmedStudy

__all__ = ["SCENARIOS"]

_TASK, _TRIAL, _TRAIN_WORKER = "ray::_run", "ray::ImplicitFunc", "ray::RayTrainWorker"
_KILLED = "SIGKILL of the worker"


def workers(folder: Path) -> list[Harm]:
    """SIGKILL of the only worker, in each stage of one study."""
    with RayCluster(num_nodes=1) as cluster, harmed(folder, 1) as study:
        study.start(cluster)
        study.harm_training("prior", _KILLED, lambda: kill([only(cluster, _TASK)[1]]))
        study.harm_training("teacher", _KILLED, lambda: kill([only(cluster, _TASK)[1]]))
        study.harm_training("trial", _KILLED, lambda: kill([only(cluster, _TRIAL)[1]]))
        study.harm_evaluation(_KILLED, lambda: kill([only(cluster, _TASK)[1]]))
        return study.finish()


def node(folder: Path) -> list[Harm]:
    """Loss of the node that trains, in a teacher's training and in a trial; another one has joined before."""
    what = "loss of the node"
    with RayCluster(num_nodes=1) as cluster, harmed(folder, 1) as study:

        def lose(name: str) -> Callable[[], None]:
            return lambda: cluster.lose(only(cluster, name)[0])

        study.start(cluster)
        study.wait_for_stage("teacher")
        cluster.add()
        study.harm_training("teacher", what, lose(_TASK))
        study.wait_for_stage("trial")
        cluster.add()
        study.harm_training("trial", what, lose(_TRIAL))
        return study.finish()


def driver(folder: Path) -> list[Harm]:
    """SIGKILL of the driver in the midst of a trial, then the same command; loss of the head, then a fresh cluster."""
    with RayCluster(num_nodes=1) as cluster, harmed(folder, 2) as study:

        def kill_driver() -> None:
            study.run.kill()
            study.start(cluster)

        study.start(cluster)
        study.harm_training("trial", "SIGKILL of the driver", kill_driver, by_command=True)
        return study.finish()


def head(folder: Path) -> list[Harm]:
    """Loss of the head in the midst of a trial; then a fresh cluster on the same storage, and the same command."""
    with harmed(folder, 2) as study:
        first = RayCluster(num_nodes=1)
        fresh: list[RayCluster] = []

        def lose_head() -> None:
            first.lose_head()
            study.run.end()  # by itself
            first.end()
            fresh.append(RayCluster(num_nodes=1))
            study.start(fresh[0])

        try:
            study.start(first)
            study.harm_training("trial", "loss of the head, fresh cluster", lose_head, by_command=True, trial=1)
            return study.finish()
        finally:
            for cluster in (first, *fresh):
                cluster.end()


def two_workers(folder: Path) -> list[Harm]:
    """SIGKILL of one of two workers under Ray Train, and in the next trial the loss of its node."""
    flags = {"--workers-per-trial": "2", "--study.pool_sizes": "2", "--pool.epochs": "10", "--prior.epochs": "4"}
    with RayCluster(num_nodes=3) as cluster, harmed(folder, 2, flags) as study:

        def kill_worker() -> None:
            pairs = cluster.find(_TRAIN_WORKER)
            assert len(pairs) == 2, pairs
            kill([pairs[1][1]])

        def lose_node() -> None:
            pairs = cluster.find(_TRAIN_WORKER)
            assert len(pairs) == 2, pairs
            cluster.lose(pairs[1][0])

        study.start(cluster)
        study.harm_training("trial", "SIGKILL of one of 2 workers", kill_worker)
        study.harm_training("trial", "loss of the node of one of 2", lose_node, trial=1)
        return study.finish()


SCENARIOS: Mapping[str, Callable[[Path], list[Harm]]] = {
    "workers": workers,
    "node": node,
    "two_workers": two_workers,
    "driver": driver,
    "head": head,
}
"""By name."""


@contextmanager
def harmed(folder: Path, num_trials: int, changes: Mapping[str, str] | None = None) -> Iterator[HarmedStudy]:
    """Ends the study's processes with the body."""
    study = HarmedStudy(folder / "storage", num_trials, changes)
    try:
        yield study
    finally:
        study.clear()


def only(cluster: RayCluster, name: str) -> tuple[Node, int]:
    """Returns node and process of the one worker that does something."""
    [found] = cluster.find(name)
    return found
