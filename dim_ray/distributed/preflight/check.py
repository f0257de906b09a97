"""Ask every node, before a run, whether it is ready: storage, versions, memory, disk, GPUs and process group.

    with cluster(config, progress) as placement:
        check_nodes(work, placement, progress, num_trials=1)         # raises if the cluster isn't ready

    run_preflight(work, placement, progress, num_trials=1, with_group=True).problems

A node that doesn't answer in time is named, and delays nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dim_ray.config import Config
from dim_ray.distributed.cluster.address import make_address_hook
from dim_ray.distributed.cluster.placement import HEAD, Placement, workers_that_fit
from dim_ray.distributed.preflight.findings import NodeReport, Problem, find_problems
from dim_ray.distributed.preflight.needs import estimate_needs
from dim_ray.distributed.preflight.probe import NodeProbe, library_versions, sent_as_code
from dim_ray.errors import ResourceError
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress import Progress
from dim_ray.store.files.filesystem import Root, open_root

__all__ = ["Preflight", "check_nodes", "run_preflight"]

_STAGE = "preflight"
_ANSWER_SECONDS = 120.0  # to start a process and import PyTorch, on a busy node and from a slow disk
_STORAGE_SECONDS = 60.0
_GROUP_SECONDS = {"gloo": 15.0, "nccl": 60.0}  # NCCL and CUDA take seconds to start
_GRACE_SECONDS = 10.0  # for a group that should have given up
_MOST_SENTENCES = 10
_UNSEEN = "what it wrote there doesn't reach this process; give a storage that all nodes share"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What the nodes reported, and what is wrong."""

    reports: Sequence[NodeReport]
    """One per node, the head's first."""
    problems: Sequence[Problem]

    @property
    def sentences(self) -> list[str]:
        """The problems' sentences without repetitions."""
        return list(dict.fromkeys(problem.sentence for problem in self.problems))


def check_nodes(
    work: Workspace,
    placement: Placement,
    progress: Progress,
    *,
    num_trials: int,
    variants: Sequence[Config] | None = None,
) -> None:
    """Refuse a run that a node of the cluster can't take part in; return at once if there is only one node.

    Args:
        work: Workspace with its data on the CPU.
        placement: Workers of a trial, and trials side by side.
        progress: Receives one stage.
        num_trials: Number of distillations that are to run.
        variants: As for `estimate_needs`.

    Raises:
        ResourceError: A node has a problem; one sentence for each.
    """
    if len(_alive_nodes()) < 2:
        return
    found = run_preflight(
        work, placement, progress, num_trials=num_trials, with_group=placement.num_workers > 1, variants=variants
    )
    if found.problems:
        sentences = found.sentences
        left = len(sentences) - _MOST_SENTENCES
        more = [f"{left} more"] if left > 0 else []
        lines = "\n".join(f"- {sentence}" for sentence in [*sentences[:_MOST_SENTENCES], *more])
        raise ResourceError(
            f"the cluster isn't ready, and nothing was started:\n{lines}\n"
            "`python -m dim_ray.doctor` checks it without running anything."
        )


def run_preflight(
    work: Workspace,
    placement: Placement,
    progress: Progress,
    *,
    num_trials: int,
    with_group: bool,
    variants: Sequence[Config] | None = None,
) -> Preflight:
    """Ask all nodes at once, which takes seconds if they answer.

    Arguments are as for `check_nodes`; `with_group` also tries a process group of the nodes with room for a worker.
    """
    nodes = _alive_nodes()
    progress.start(_STAGE, len(nodes), "nodes")
    root = open_root(work.config.storage.root)
    reports = {node["NodeID"]: _blank_report(node, nodes, placement) for node in nodes}
    with _probing(reports) as probes:
        answering = _ask_facts(probes, reports, root.uri if root.is_local else None)
        answering = _try_storage(answering, reports, root)
        progress.advance(len(answering))
        members = {key: probe for key, probe in answering.items() if reports[key].num_workers}
        if with_group and len(members) > 1:
            addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
            backend = _group_backend(placement, [reports[key] for key in members], [addresses[key] for key in members])
            _try_group(backend, members, reports, addresses)
    needs = estimate_needs(work, placement, num_trials=num_trials, variants=variants)
    log.info("Preflight: %s; %s", reports, needs)
    problems = find_problems(
        list(reports.values()),
        storage=root.uri,
        reference=library_versions(),
        needs=needs,
        uses_gpus=placement.gpus_per_worker > 0,
    )
    return Preflight(reports=list(reports.values()), problems=problems)


def _alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's nodes, the head first."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return sorted(nodes, key=lambda node: (HEAD not in node["Resources"], node["NodeManagerAddress"], node["NodeID"]))


def _blank_report(node: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], placement: Placement) -> NodeReport:
    address, host_name, resources = node["NodeManagerAddress"], node["NodeManagerHostname"], node["Resources"]
    twins = [other for other in nodes if other["NodeManagerAddress"] == address]  # several nodes on one machine
    number = f" #{twins.index(node) + 1}" if len(twins) > 1 else ""
    return NodeReport(
        name=f"{address}{number} ({host_name})",
        num_workers=workers_that_fit(placement.cpus_per_worker, placement.gpus_per_worker, resources),
        num_gpus=resources.get("GPU", 0.0),
        is_head=HEAD in resources,
        shares_machine=len(twins) > 1,
    )


@contextmanager
def _probing(keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield a probe on each node, and kill them all at the end, hung ones too."""
    with sent_as_code():
        kind = ray.remote(num_cpus=0)(NodeProbe)
        probes = {
            key: kind.options(scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False)).remote(
                make_address_hook()
            )
            for key in keys
        }
    try:
        yield probes
    finally:
        for probe in probes.values():
            ray.kill(probe)


def _ask_facts(probes: Mapping[str, Any], reports: dict[str, NodeReport], storage_folder: str | None) -> dict[str, Any]:
    """Complete the reports, and return the probes that answered."""
    facts, failures = _collect(
        {key: probe.facts.remote(storage_folder) for key, probe in probes.items()}, _ANSWER_SECONDS
    )
    for key in probes:
        reports[key] = replace(reports[key], **facts[key] if key in facts else {"failure": failures[key]})
    return {key: probes[key] for key in facts}


def _try_storage(probes: Mapping[str, Any], reports: dict[str, NodeReport], root: Root) -> dict[str, Any]:
    """Let nodes and this process read each other's files in the storage; return the probes that answered."""
    base, content = f".preflight-{uuid.uuid4().hex}", uuid.uuid4().bytes
    keys = {key: f"{base}-{number}" for number, key in enumerate(probes)}
    root.write(base, content)
    try:
        calls = {key: probe.write_storage.remote(root.uri, base, keys[key], content) for key, probe in probes.items()}
        problems, failures = _collect(calls, _STORAGE_SECONDS)
        for key, problem in problems.items():
            is_unseen = problem is None and root.read(keys[key]) != content
            reports[key] = replace(reports[key], storage_problem=_UNSEEN if is_unseen else problem)
    finally:
        for key in (base, *keys.values()):
            root.delete(key)
    for key, failure in failures.items():
        reports[key] = replace(reports[key], storage_problem=failure)
    return {key: probe for key, probe in probes.items() if key not in failures}


def _group_backend(placement: Placement, reports: Sequence[NodeReport], addresses: Sequence[str]) -> str:
    """Return what the workers will use; gloo if GPUs are missing, or nodes on one machine would take the same one."""
    has_gpus = placement.gpus_per_worker > 0 and all(report.num_gpus_seen for report in reports)
    return "nccl" if has_gpus and len(set(addresses)) == len(addresses) else "gloo"


def _try_group(
    backend: str, probes: Mapping[str, Any], reports: dict[str, NodeReport], addresses: Mapping[str, str]
) -> None:
    """Join the nodes in a process group, which meets at the first one's address in Ray."""
    first, size, seconds = next(iter(probes)), len(probes), _GROUP_SECONDS[backend]
    opening = probes[first].open_group.remote(addresses[first], size, seconds)
    opened, failures = _collect({first: opening}, seconds)
    calls = {
        key: probe.join_group.remote(backend, addresses[first], opened[first], rank, size, seconds)
        for rank, (key, probe) in enumerate(probes.items() if opened else ())
    }
    answers, silent = _collect(calls, seconds + _GRACE_SECONDS)
    for key in probes:
        reports[key] = replace(reports[key], is_member=True, group_error={**answers, **failures, **silent}.get(key))


def _collect(calls: Mapping[str, Any], seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Wait for calls, at most so many seconds, and return what they answered and why the others failed."""
    if not calls:
        return {}, {}
    ready, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=seconds)
    values, failures = {}, {}
    for key, call in calls.items():
        if call not in ready:
            failures[key] = f"no answer within {seconds:g} seconds"
            continue
        try:
            values[key] = ray.get(call)
        except ray.exceptions.RayError as error:
            log.warning("Preflight of node %s failed.", key, exc_info=True)
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            # A traceback ends with its error.
            failures[key] = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
    return values, failures
