"""Problems of a cluster's nodes, found in their reports.

    for problem in find_problems(reports, storage=uri, reference=library_versions(), needs=needs, uses_gpus=False):
        print(problem.sentence)

A problem has a short mark for a table, and a sentence that says what is wrong, what is needed and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dim_ray.distributed.cluster.address import INTERFACE_VARIABLES
from dim_ray.distributed.preflight.needs import Needs
from dim_ray.distributed.preflight.probe import NOT_SHARED
from dim_ray.errors import listed

__all__ = ["CHECKS", "Check", "NodeReport", "Problem", "find_problems"]

Check = Literal["answer", "storage", "versions", "memory", "disk", "GPUs", "process group"]
CHECKS: tuple[Check, ...] = get_args(Check)
"""In the order in which they are shown."""

_CODE = "code"

Finding = tuple[str, str]
"""A problem's mark, and its sentence after the node's name."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node reported; if it didn't, `failure` says why and the rest is empty."""

    name: str  # address and host name
    num_workers: int  # that fit on the node
    num_gpus: float  # that Ray counts
    is_head: bool = False
    shares_machine: bool = False  # with another node
    num_gpus_seen: int = 0  # by PyTorch
    versions: Mapping[str, str] | None = None  # as `library_versions` returns them
    memory_bytes: int | None = None  # free; None if unknown
    temp_bytes: int = 0  # free, for Ray's temporary folder
    storage_bytes: int | None = None  # free, for the storage; None for an object store
    storage_problem: str | None = None  # why it can't use the storage
    interface: str | None = None  # that gloo is told to use
    interfaces: Sequence[str] = ()  # all of the node's
    is_member: bool = False  # whether it took part in the test of a process group
    group_error: str | None = None  # why it couldn't join the group
    failure: str | None = None  # why it didn't answer


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem of one node."""

    name: str  # of the node
    check: Check
    mark: str  # a few words
    sentence: str  # what is wrong and what to do


def find_problems(
    reports: Sequence[NodeReport], *, storage: str, reference: Mapping[str, str], needs: Needs, uses_gpus: bool
) -> list[Problem]:
    """Compare what every node reports with what the run needs.

    Args:
        reports: One per node.
        storage: URI of the storage.
        reference: Versions of the process that starts the run.
        needs: What the run needs.
        uses_gpus: Whether its workers have GPUs.
    """
    found: list[Problem] = []
    for report in reports:
        if report.failure is not None:
            sentence = f"doesn't answer: {report.failure}. Repair it, or take it out of the cluster with `ray stop`."
            findings: dict[Check, Finding | None] = {"answer": ("none", sentence)}
        else:
            findings = {
                "storage": _storage(report, storage),
                "versions": _versions(report, reference),
                "memory": _memory(report, needs),
                "disk": _disk(report, needs, storage),
                "GPUs": _gpus(report) if uses_gpus else None,
            }
        for check, finding in findings.items():
            if finding is not None:
                mark, sentence = finding
                found.append(Problem(name=report.name, check=check, mark=mark, sentence=f"{report.name} {sentence}"))
    return [*found, *_group([report for report in reports if report.is_member])]


def _storage(report: NodeReport, storage: str) -> Finding | None:
    what = report.storage_problem
    if what is None:
        return None
    if what != NOT_SHARED:
        return "failed", f"can't use the storage: {what.rstrip('.')}."
    return what, (
        f"doesn't share the storage {storage}: a file that this process wrote isn't there. With --storage, give a "
        "folder that all nodes mount at the same path, such as one of NFS, or an s3:// or gs:// URI."
    )


def _versions(report: NodeReport, reference: Mapping[str, str]) -> Finding | None:
    theirs = report.versions or {}
    differing = [name for name in reference if theirs.get(name) != reference[name]]
    if theirs.get("dim_ray") == "missing":
        differing = [name for name in differing if name != _CODE]
    if not differing:
        return None
    if differing == [_CODE]:
        return "code differs", (
            f"has other code of dim_ray {reference['dim_ray']}: digest {theirs.get(_CODE)}, and {reference[_CODE]} "
            "here. Bring the same checkout to all nodes, and start Ray there again."
        )
    pairs = ", ".join(f"{name} {theirs.get(name, 'missing')} and {reference[name]} here" for name in differing)
    mark = ", ".join(f"{name} {theirs.get(name, 'missing')}" for name in differing if name != _CODE)
    return mark, f"has other versions: {pairs}. Install the same ones, and start Ray there again."


def _memory(report: NodeReport, needs: Needs) -> Finding | None:
    drivers = needs.num_drivers if report.is_head else 0
    needed = needs.memory_bytes(report.num_workers, drivers)
    if report.memory_bytes is None or report.memory_bytes >= needed:
        return None
    workers = min(report.num_workers, needs.num_workers)
    who = f"{workers} workers" if not drivers else f"{workers} workers and {drivers} trials' drivers"
    return _of(report.memory_bytes, needed), (
        f"has {_bytes(report.memory_bytes)} of free memory, and {who} need at least {_bytes(needed)}. "
        "Free some, or let fewer run side by side: --study.max_concurrent, --study.cpus_per_worker."
    )


def _disk(report: NodeReport, needs: Needs, storage: str) -> Finding | None:
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
    return _of(free, needed), (
        f"has too little disk: {parts}. Free some, or choose another place with `ray start --temp-dir` or --storage."
    )


def _gpus(report: NodeReport) -> Finding | None:
    if report.num_gpus_seen == report.num_gpus:
        return None
    if report.num_gpus_seen > report.num_gpus:
        if not report.num_workers or report.shares_machine:
            return None
        return f"{report.num_gpus:g} of {report.num_gpus_seen} used", (
            f"has {report.num_gpus_seen} GPUs, and Ray counts {report.num_gpus:g}: the others would be idle. Say how "
            "many there are in the cluster's configuration (resources) or with `ray start --num-gpus`, or hide them "
            "from Ray's processes with CUDA_VISIBLE_DEVICES."
        )
    return f"{report.num_gpus_seen} of {report.num_gpus:g}", (
        f"has {report.num_gpus:g} GPUs by Ray's count, and PyTorch sees {report.num_gpus_seen}. Install the driver and "
        "a PyTorch with CUDA there, or start Ray with the right --num-gpus."
    )


def _group(members: Sequence[NodeReport]) -> list[Problem]:
    """Explain a process group that doesn't work, in one sentence for all its members."""
    failed = [report for report in members if report.group_error is not None]
    if not failed:
        return []
    ordered = sorted(members, key=lambda report: report.group_error is None)
    sentence = (
        f"the process group of {len(members)} nodes doesn't work. {listed(map(_member, ordered), between=' ')} Every "
        "node has to listen on an interface that the others reach, by default the one with the node's address in Ray, "
        f"and never lo. Start Ray on each node with {' and '.join(INTERFACE_VARIABLES)} unset or set to the right "
        "interface, let the nodes reach each other on all TCP ports, or use one worker."
    )
    return [Problem(name=report.name, check="process group", mark="failed", sentence=sentence) for report in failed]


def _member(report: NodeReport) -> str:
    interface = f"interface {report.interface or 'not set'} of {listed(report.interfaces)}"
    return f"{report.name}: {interface}; {(report.group_error or 'no error').rstrip('.')}."


def _of(free: int, needed: int) -> str:
    return f"{_bytes(free).removesuffix(' GB')} of {_bytes(needed)}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
