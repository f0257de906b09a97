"""Faults that a study survives: each function causes some on a cluster of this machine, and returns their cost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.disks import fill, small_disk
from tests.helpers.harmed_study import CELLS, REFUSED_SECONDS, Harm, HarmedStudy
from tests.helpers.ray_cluster import Node, RayCluster, kill
from tests.helpers.runs import space

__all__ = ["SCENARIOS"]

# How Ray's processes call themselves.
_PRIOR, _TEACHER, _LAST_STUDENT = "ray::prior", "ray::teacher", f"ray::students {CELLS - 1}"
_TRIAL, _TRAIN_WORKER = "ray::ImplicitFunc", "ray::RayTrainWorker"
_KILLED = "SIGKILL of the worker"
_FOR = f" for {REFUSED_SECONDS:.0f} s"
_NOTICE_SECONDS = 10.0
_LONG_TRIALS = {"--matching.epochs": "60", "--study.grace_epochs": "60"}
_LONGEST_TRIALS = {"--matching.epochs": "180", "--study.grace_epochs": "180"}  # longer than a storage refuses
_SHORT_PRIOR = {"--prior.epochs": "4"}
_SHORT_BUILD = {**_SHORT_PRIOR, "--pool.epochs": "10"}


def workers(folder: Path) -> list[Harm]:
    """Kill the only worker, in each stage of one study."""
    with RayCluster(num_nodes=2) as cluster, harmed(folder, 1) as study:

        def kill_one(name: str) -> Callable[[], None]:
            return lambda: kill([only(cluster, name)[1]])

        def kill_builders() -> None:
            kill([only(cluster, _PRIOR)[1], only(cluster, _TEACHER)[1]])

        study.start(cluster)
        study.harm_training(["prior", "teacher"], _KILLED, kill_builders)
        study.harm_training(["trial 0"], _KILLED, kill_one(_TRIAL))
        study.harm_evaluation(_KILLED, kill_one(_LAST_STUDENT), lambda: cluster.find(_LAST_STUDENT))
        return study.finish()


def node(folder: Path) -> list[Harm]:
    """Lose the node that trains a teacher and, once another one has joined, the node that runs a trial."""
    what = "loss of the node"
    with RayCluster(num_nodes=2) as cluster, harmed(folder, 1, _SHORT_PRIOR) as study:

        def lose(name: str) -> Callable[[], None]:
            return lambda: cluster.lose(only(cluster, name)[0])

        study.start(cluster)
        study.harm_training(["teacher"], what, lose(_TEACHER))
        cluster.add()
        study.harm_training(["trial 0"], what, lose(_TRIAL))
        return study.finish()


def reclaims(folder: Path) -> list[Harm]:
    """Lose the node that trains three times, first a teacher's and then a trial's; another one joins each time."""
    return _reclaims(folder, 2, {"teacher": _TEACHER, "trial 0": _TRIAL}, {"--pool.epochs": "300"})


def reclaims_of_two(folder: Path) -> list[Harm]:
    """Lose the node of one of two workers three times; another one joins each time."""
    flags = {**_SHORT_BUILD, "--workers-per-trial": "2", "--study.space": space({"pool.size": [2]})}
    return _reclaims(folder, 3, {"trial 0": _TRAIN_WORKER}, flags)


def _reclaims(folder: Path, num_nodes: int, stages: Mapping[str, str], flags: Mapping[str, str]) -> list[Harm]:
    with RayCluster(num_nodes=num_nodes) as cluster, harmed(folder, 1, {**_LONGEST_TRIALS, **flags}) as study:

        def lose(name: str) -> Callable[[], None]:
            return lambda: cluster.lose(cluster.find(name)[-1][0])

        study.start(cluster)
        for stage, name in stages.items():
            for number in (1, 2, 3):
                study.harm_training([stage], f"loss of a node, {number} of 3", lose(name))
                cluster.add()
        return study.finish()


def driver(folder: Path) -> list[Harm]:
    """Kill the driver in one trial, and head and nodes in the next; give the same command again each time."""
    clusters: list[RayCluster] = []
    with harmed(folder, 2, _SHORT_BUILD) as study:

        def kill_driver() -> None:
            study.run.kill()
            study.start(clusters[0])

        def lose_cluster() -> None:
            clusters[0].end()
            study.run.end()  # by itself
            clusters.append(RayCluster(num_nodes=1))
            study.start(clusters[1])

        try:
            clusters.append(RayCluster(num_nodes=1))
            study.start(clusters[0])
            study.harm_training(["trial 0"], "SIGKILL of the driver", kill_driver, by_command=True)
            study.harm_training(["trial 1"], "loss of the head", lose_cluster, by_command=True)
            return study.finish()
        finally:
            for cluster in clusters:
                cluster.end()


def storage(folder: Path) -> list[Harm]:
    """Make the storage read-only during one trial, and fill its disk during the next."""
    disk, flags = folder / "disk", {**_LONGEST_TRIALS, **_SHORT_BUILD}
    with small_disk(disk, 64 * 1024), RayCluster(num_nodes=1) as cluster, harmed(disk, 2, flags) as study:
        root = study.storage
        freed: list[Callable[[], None]] = []
        study.start(cluster)
        study.harm_storage(
            "trial 0", f"storage read-only for {REFUSED_SECONDS:.0f} s", lambda: cover(root), lambda: uncover(root)
        )
        study.harm_storage(
            "trial 1", f"disk full for {REFUSED_SECONDS:.0f} s", lambda: freed.append(fill(disk)), lambda: freed[0]()
        )
        return study.finish()


def two_workers(folder: Path) -> list[Harm]:
    """Kill one of two workers under Ray Train, and then lose its node."""
    flags = {
        **_LONG_TRIALS,
        **_SHORT_BUILD,
        "--workers-per-trial": "2",
        "--study.max_failures": "2",
        "--study.space": space({"pool.size": [2]}),
    }
    with RayCluster(num_nodes=3) as cluster, harmed(folder, 1, flags) as study:

        def second() -> tuple[Node, int]:
            _, second = cluster.find(_TRAIN_WORKER)
            return second

        study.start(cluster)
        study.harm_training(["trial 0"], "SIGKILL of one of 2 workers", lambda: kill([second()[1]]))
        study.harm_training(["trial 0"], "loss of the node of one of 2", lambda: cluster.lose(second()[0]))
        return study.finish()


def preemption(folder: Path) -> list[Harm]:
    """Preempt the node of one of two workers, with a notice, in a study that allows no failure."""
    flags = {**_LONG_TRIALS, **_SHORT_BUILD, "--workers-per-trial": "2", "--study.max_failures": "0"}
    flags["--study.space"] = space({"pool.size": [2]})
    with RayCluster(num_nodes=3) as cluster, harmed(folder, 1, flags) as study:

        def preempt() -> None:
            _, (node, _) = cluster.find(_TRAIN_WORKER)
            cluster.preempt(node, _NOTICE_SECONDS)

        study.start(cluster)
        study.harm_training(["trial 0"], f"preemption, {_NOTICE_SECONDS:.0f} s ahead", preempt)
        return study.finish()


SCENARIOS: Mapping[str, Callable[[Path], list[Harm]]] = {
    "workers": workers,
    "node": node,
    "reclaims": reclaims,
    "reclaims_of_two": reclaims_of_two,
    "two_workers": two_workers,
    "preemption": preemption,
    "driver": driver,
    "storage": storage,
}
"""By name."""


def cover(folder: Path) -> None:
    """Make a folder read-only; files that are open already can still be written."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)


def uncover(folder: Path) -> None:
    """Make it writable again."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def harmed(folder: Path, num_trials: int, changes: Mapping[str, str] | None = None) -> Iterator[HarmedStudy]:
    """Yield a study, and end its processes with the body."""
    study = HarmedStudy(folder / "storage", num_trials, changes)
    try:
        yield study
    finally:
        study.clear()


def only(cluster: RayCluster, name: str) -> tuple[Node, int]:
    """Return node and process of the one worker of this name."""
    [found] = cluster.find(name)
    return found
