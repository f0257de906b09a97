"""What is wrong with the nodes of a cluster, out of their reports.

    for problem in find_problems(reports, reference=library_versions(), needs=needs):
        print(problem.sentence)

A problem has a short mark for a table, and a sentence that says what is so, what should be, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dim_ray.distributed.cluster.address import INTERFACE_VARIABLES
from dim_ray.distributed.preflight.needs import Needs
from dim_ray.distributed.preflight.probe import NOT_SHARED

__all__ = ["CHECKS", "Check", "NodeReport", "Problem", "find_problems"]

Check = Literal["answer", "storage", "versions", "memory", "disk", "GPUs", "process group"]
CHECKS: tuple[Check, ...] = ("answer", "storage", "versions", "memory", "disk", "GPUs", "process group")
"""In the order in which they are shown."""

_CODE = "code"


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node told of itself; where it failed to, `failure` says why and the rest is empty."""

    name: str
    """For a person: address and host name."""
    num_workers: int
    """Workers that fit on it."""
    num_gpus: float
    """That Ray counts."""
    num_gpus_seen: int = 0
    """That PyTorch sees."""
    versions: Mapping[str, str] | None = None
    """As `library_versions` gives them."""
    memory_bytes: int | None = None
    """Free; None where it isn't known."""
    temp_bytes: int = 0
    """Free for Ray's temporary folder."""
    storage_bytes: int | None = None
    """Free for the storage; None where it's an object store."""
    storage_problem: str | None = None
    """What kept it from using the storage."""
    interface: str | None = None
    """What gloo is told to use there."""
    interfaces: Sequence[str] = ()
    """All that it has."""
    host_name: str = ""
    host_address: str | None = None
    """What its own host name stands for there."""
    is_member: bool = False
    """Of the process group that was tried."""
    group_error: str | None = None
    """What kept it from joining."""
    failure: str | None = None
    """Why it didn't answer."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with one node."""

    name: str
    """Of the node."""
    check: Check
    mark: str
    """A few words."""
    sentence: str
    """With what to do."""


def find_problems(
    reports: Sequence[NodeReport], *, storage: str, reference: Mapping[str, str], needs: Needs, uses_gpus: bool
) -> list[Problem]:
    """Compares what every node says with what the run needs.

    Args:
        reports: One a node.
        storage: Address of the storage.
        reference: Versions of the process that starts the run.
        needs: Of the run.
        uses_gpus: Whether its workers have GPUs.
    """
    found: list[Problem] = []
    for report in reports:
        if report.failure is not None:
            found.append(_unanswered(report, report.failure))
            continue
        problems = [
            _storage(report, storage),
            _versions(report, reference),
            _memory(report, needs),
            _disk(report, needs, storage),
            _gpus(report) if uses_gpus else None,
        ]
        found += [problem for problem in problems if problem is not None]
    return [*found, *_group([report for report in reports if report.is_member])]


def _unanswered(report: NodeReport, failure: str) -> Problem:
    return Problem(
        name=report.name,
        check="answer",
        mark="none",
        sentence=f"{report.name} doesn't answer: {failure}. Mend it, or take it out of the cluster with `ray stop`.",
    )


def _storage(report: NodeReport, storage: str) -> Problem | None:
    what = report.storage_problem
    if what is None:
        return None
    if what == NOT_SHARED:
        sentence = (
            f"{report.name} doesn't share the storage {storage}: what this process wrote there isn't there. Give a "
            "folder that all nodes mount at this path, such as one of NFS, or an s3:// or gs:// URI, with --storage."
        )
        return Problem(name=report.name, check="storage", mark=what, sentence=sentence)
    sentence = f"{report.name} can't use the storage: {what.rstrip('.')}."
    return Problem(name=report.name, check="storage", mark="failed", sentence=sentence)


def _versions(report: NodeReport, reference: Mapping[str, str]) -> Problem | None:
    theirs = report.versions or {}
    differing = [name for name in reference if theirs.get(name) != reference[name]]
    if "dim_ray" in differing and theirs.get("dim_ray") == "missing":
        differing = [name for name in differing if name != _CODE]
    elif differing == [_CODE]:
        sentence = (
            f"{report.name} has other code of dim_ray {reference['dim_ray']}: digest {theirs.get(_CODE)}, and "
            f"{reference[_CODE]} here. Bring the same checkout to all nodes, and start Ray there again."
        )
        return Problem(name=report.name, check="versions", mark="code differs", sentence=sentence)
    if not differing:
        return None
    pairs = ", ".join(f"{name} {theirs.get(name, 'missing')} and {reference[name]} here" for name in differing)
    return Problem(
        name=report.name,
        check="versions",
        mark=", ".join(f"{name} {theirs.get(name, 'missing')}" for name in differing if name != _CODE),
        sentence=f"{report.name} has other versions: {pairs}. Install the same ones, and start Ray there again.",
    )


def _memory(report: NodeReport, needs: Needs) -> Problem | None:
    needed = needs.memory_bytes(report.num_workers)
    if report.memory_bytes is None or report.memory_bytes >= needed:
        return None
    workers = min(report.num_workers, needs.num_workers)
    return Problem(
        name=report.name,
        check="memory",
        mark=_of(report.memory_bytes, needed),
        sentence=(
            f"{report.name} has {_bytes(report.memory_bytes)} of memory free, and {workers} workers need at least "
            f"{_bytes(needed)}. Free some, or let fewer run side by side: --study.max_concurrent, "
            "--study.cpus_per_worker."
        ),
    )


def _disk(report: NodeReport, needs: Needs, storage: str) -> Problem | None:
    places = [("Ray's temporary folder", report.temp_bytes, needs.temp_bytes)]
    if report.storage_bytes is not None and report.storage_problem is None:
        places.append((f"the storage {storage}", report.storage_bytes, needs.storage_bytes))
    short = [(what, free, needed) for what, free, needed in places if free < needed]
    if not short:
        return None
    parts = "; ".join(
        f"{_bytes(free)} free for {what}, which needs at least {_bytes(needed)}" for what, free, needed in short
    )
    _, free, needed = short[0]
    return Problem(
        name=report.name,
        check="disk",
        mark=_of(free, needed),
        sentence=f"{report.name} has too little disk: {parts}. Free some, or use another place: "
        "`ray start --temp-dir`, --storage.",
    )


def _gpus(report: NodeReport) -> Problem | None:
    if report.num_gpus_seen >= report.num_gpus:
        return None
    return Problem(
        name=report.name,
        check="GPUs",
        mark=f"{report.num_gpus_seen} of {report.num_gpus:g}",
        sentence=(
            f"{report.name} has {report.num_gpus:g} GPUs by Ray's count, and PyTorch sees {report.num_gpus_seen}. "
            "Install the driver and a PyTorch with CUDA there, or start Ray with the right --num-gpus."
        ),
    )


def _group(members: Sequence[NodeReport]) -> list[Problem]:
    """Explains a process group that doesn't work; its members share one sentence."""
    failed = [report for report in members if report.group_error is not None]
    if not failed:
        return []
    variables = " and ".join(INTERFACE_VARIABLES)
    sentence = (
        f"the process group of {len(members)} nodes doesn't work. {' '.join(map(_member, members))} Every node has to "
        "listen on an interface that the others reach; by default it's the one with the node's address in Ray. Start "
        f"Ray on each node with {variables} unset, or set to the right interface, let the nodes reach each other on "
        "all TCP ports, or use one worker."
    )
    return [Problem(name=report.name, check="process group", mark="failed", sentence=sentence) for report in failed]


def _member(report: NodeReport) -> str:
    host = f"its host name {report.host_name} is {report.host_address or 'unknown to it'}"
    unreachable = ", which no other node reaches"
    if report.interface is None:
        is_alone = (report.host_address or "").startswith("127.")
        where = f"no interface is set, and {host}{unreachable if is_alone else ''}"
    else:
        missing = [name for name in report.interface.split(",") if name not in report.interfaces]
        if missing:
            remark = f", which it doesn't have (it has {', '.join(report.interfaces)})"
        else:
            remark = unreachable if report.interface == "lo" else ""
        where = f"interface {report.interface}{remark}; {host}"
    return f"{report.name}: {where}; {(report.group_error or 'no error').rstrip('.')}."


def _of(free: int, needed: int) -> str:
    return f"{_bytes(free).removesuffix(' GB')} of {_bytes(needed)}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
