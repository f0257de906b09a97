from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dim_ray.distributed.preflight.findings import NodeReport, Problem, find_problems
from dim_ray.distributed.preflight.needs import Needs
from dim_ray.distributed.preflight.probe import NOT_SHARED

GB = 1_000_000_000
HERE = {"Python": "3.11", "torch": "2.15.0", "ray": "2.60.0", "dim_ray": "0.1.0", "code": "0123abcd"}
NEEDS = Needs(num_workers=4, worker_bytes=2 * GB, dataset_bytes=GB, temp_bytes=3 * GB, storage_bytes=5 * GB)
WELL = NodeReport(
    name="10.0.0.2 (two)",
    num_workers=2,
    num_gpus=2.0,
    num_gpus_seen=2,
    versions=HERE,
    memory_bytes=5 * GB,
    temp_bytes=3 * GB,
    storage_bytes=5 * GB,
    interface="eth0",
    interfaces=("lo", "eth0"),
)


def find(*reports: NodeReport, **changes: Any) -> list[Problem]:
    settings: dict[str, Any] = {"storage": "/shared", "reference": HERE, "needs": NEEDS, "uses_gpus": True}
    return find_problems(reports, **{**settings, **changes})


def only(*reports: NodeReport, **changes: Any) -> Problem:
    [problem] = find(*reports, **changes)
    assert problem.name == "10.0.0.2 (two)"
    return problem


def test_node_with_just_enough_passes() -> None:
    assert find(WELL, replace(WELL, is_member=True)) == []


def test_gpus_that_ray_does_not_count_are_named_unless_another_node_has_them() -> None:
    eight = replace(WELL, num_gpus_seen=8)
    problem = only(eight)
    assert (problem.check, problem.mark) == ("GPUs", "2 of 8 used")
    assert "has 8 GPUs, and Ray counts 2: the others would be idle" in problem.sentence
    assert find(replace(eight, shares_machine=True), replace(eight, num_workers=0, num_gpus=0.0)) == []


def test_drivers_of_trials_need_memory_on_the_head() -> None:
    head = replace(WELL, num_workers=0, memory_bytes=2 * GB)
    needs = replace(NEEDS, num_drivers=3)
    assert find(head, replace(head, is_head=True, memory_bytes=3 * GB), needs=needs) == []
    problem = only(replace(head, is_head=True), needs=needs)
    assert (problem.check, problem.mark) == ("memory", "2.0 of 2.7 GB")
    assert "and 0 workers and 3 trials' drivers need at least 2.7 GB" in problem.sentence


def test_node_that_did_not_answer_is_one_problem() -> None:
    problem = only(NodeReport(name=WELL.name, num_workers=2, num_gpus=2.0, failure="no answer within 120 seconds"))
    assert (problem.check, problem.mark) == ("answer", "none")
    assert problem.sentence.startswith("10.0.0.2 (two) doesn't answer: no answer within 120 seconds.")


def test_folder_that_is_not_shared_names_what_to_use_instead() -> None:
    problem = only(replace(WELL, storage_problem=NOT_SHARED, storage_bytes=0))  # and its disk says nothing
    assert (problem.check, problem.mark) == ("storage", "not shared")
    assert "doesn't share the storage /shared" in problem.sentence
    assert "s3://" in problem.sentence


def test_storage_that_fails_on_a_node_keeps_the_reason() -> None:
    problem = only(replace(WELL, storage_problem="can't write s3://a/b: permission denied."))
    assert (problem.check, problem.mark) == ("storage", "failed")
    assert problem.sentence == "10.0.0.2 (two) can't use the storage: can't write s3://a/b: permission denied."


def test_other_version_is_told_beside_ours() -> None:
    problem = only(replace(WELL, versions={**HERE, "torch": "2.14.0"}))
    assert (problem.check, problem.mark) == ("versions", "torch 2.14.0")
    assert "other versions: torch 2.14.0 and 2.15.0 here." in problem.sentence


def test_two_checkouts_of_one_version_differ_by_their_code() -> None:
    problem = only(replace(WELL, versions={**HERE, "code": "ffff0000"}))
    assert problem.mark == "code differs"
    assert "other code of dim_ray 0.1.0: digest ffff0000, and 0123abcd here" in problem.sentence


def test_node_without_our_code_says_so_once() -> None:
    theirs = {name: version for name, version in HERE.items() if name != "code"}
    problem = only(replace(WELL, versions={**theirs, "dim_ray": "missing"}))
    assert problem.mark == "dim_ray missing"
    assert "dim_ray missing and 0.1.0 here." in problem.sentence


def test_memory_is_counted_for_the_workers_that_a_node_gets() -> None:
    problem = only(replace(WELL, memory_bytes=5 * GB - 1))
    assert (problem.check, problem.mark) == ("memory", "5.0 of 5.0 GB")
    assert find(replace(WELL, num_workers=64, memory_bytes=9 * GB)) == []  # four run in all
    assert "4 workers need at least 9.0 GB" in only(replace(WELL, num_workers=64, memory_bytes=4 * GB)).sentence
    assert find(replace(WELL, num_workers=0, memory_bytes=0)) == []
    assert find(replace(WELL, memory_bytes=None)) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"temp_bytes": GB}, "1.0 GB free for Ray's temporary folder, which needs at least 3.0 GB"),
        ({"storage_bytes": GB}, "1.0 GB free for the storage /shared, which needs at least 5.0 GB"),
    ],
)
def test_disk_is_counted_at_both_places(changes: dict[str, int], what: str) -> None:
    problem = only(replace(WELL, **changes))
    assert problem.check == "disk"
    assert what in problem.sentence
    assert find(replace(WELL, storage_bytes=None)) == []  # an object store


def test_gpus_that_pytorch_does_not_see_are_a_problem_only_where_they_are_used() -> None:
    blind = replace(WELL, num_gpus_seen=0)
    assert only(blind).mark == "0 of 2"
    assert find(blind, uses_gpus=False) == []


def group_sentence(*members: NodeReport) -> str:
    problems = find(*(replace(member, is_member=True) for member in members))
    assert problems
    assert {problem.check for problem in problems} == {"process group"}
    [sentence] = {problem.sentence for problem in problems}
    return sentence


def test_group_that_fails_names_every_node_with_its_interface() -> None:
    sentence = group_sentence(
        replace(WELL, name="10.0.0.1 (one)", interface=None, group_error="refused"),
        replace(WELL, interface="eth9", group_error="no such device."),
        replace(WELL, name="10.0.0.3 (three)", interface="lo"),
    )
    assert "process group of 3 nodes" in sentence
    assert "10.0.0.1 (one): interface not set of lo, eth0; refused. " in sentence
    assert "10.0.0.2 (two): interface eth9 of lo, eth0; no such device. " in sentence
    assert "10.0.0.3 (three): interface lo of lo, eth0; no error. " in sentence
    assert "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME unset" in sentence


def test_only_the_members_that_failed_are_marked() -> None:
    assert only(replace(WELL, is_member=True, group_error="refused"), replace(WELL, is_member=True)).mark == "failed"
