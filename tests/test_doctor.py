from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from dim_ray.cli.main import run_main
from dim_ray.distributed.cluster import joining
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.preflight import check
from dim_ray.distributed.preflight.check import Preflight, check_nodes
from dim_ray.distributed.preflight.findings import NodeReport, Problem
from dim_ray.doctor import main, print_nodes
from dim_ray.errors import ResourceError
from dim_ray.progress import SilentProgress
from tests.helpers.logs import closed_logs  # noqa: F401  # a fixture
from tests.helpers.small import make_work

ONE = NodeReport(name="10.0.0.1 (one)", num_workers=1, num_gpus=0.0, is_member=True)
TWO = NodeReport(name="10.0.0.2 (two)", num_workers=1, num_gpus=0.0)
THREE = NodeReport(name="10.0.0.3 (three)", num_workers=1, num_gpus=0.0, failure="gone")
WELL = Preflight(reports=[ONE], problems=[])
ILL = Preflight(
    reports=[ONE, TWO, THREE],
    problems=[
        Problem(name=TWO.name, check="disk", mark="1.0 GB of 3.0 GB", sentence="two [has] too little disk."),
        Problem(name=ONE.name, check="process group", mark="failed", sentence="the group doesn't work."),
        Problem(name=TWO.name, check="process group", mark="failed", sentence="the group doesn't work."),
        Problem(name=THREE.name, check="answer", mark="none", sentence="three doesn't answer."),
    ],
)
PLACEMENT = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)


def printed(found: Preflight, width: int) -> str:
    stream = io.StringIO()
    print_nodes(Console(file=stream, width=width, color_system=None), found)
    return stream.getvalue()


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command, with nodes that say this; returns the exit code."""

    @contextmanager
    def no_cluster(*_: Any) -> Iterator[Placement]:
        yield PLACEMENT

    def run(found: Preflight) -> int:
        monkeypatch.setattr(joining, "cluster", no_cluster)
        monkeypatch.setattr(check, "run_preflight", lambda *_, **options: found)
        return run_main(main, ["--storage", str(tmp_path / "storage")])

    return run


def test_table_has_one_row_per_node_and_one_column_per_check() -> None:
    *heading, _, one, two, three = [line.split() for line in printed(ILL, 120).splitlines() if line.strip()]
    assert heading == [["process"], ["node", "answer", "storage", "versions", "memory", "disk", "GPUs", "group"]]
    assert one == ["10.0.0.1", "(one)", "ok", "ok", "ok", "ok", "ok", "ok", "failed"]
    assert two == ["10.0.0.2", "(two)", "ok", "ok", "ok", "ok", "1.0", "GB", "of", "3.0", "GB", "ok", "failed"]
    assert three == ["10.0.0.3", "(three)", "none", "-", "-", "-", "-", "-", "-"]


def test_group_that_was_not_tried_is_no_success() -> None:
    assert printed(Preflight(reports=[TWO], problems=[]), 120).split()[-1] == "-"


def test_table_is_plain_text() -> None:
    assert "\x1b" not in printed(ILL, 120)


def test_all_well_ends_with_0(doctor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(WELL) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all is well"


def test_problems_are_told_once_each_and_end_with_1(doctor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(ILL) == 1
    output = capsys.readouterr()
    assert [line for line in output.out.splitlines() if line.startswith("- ")] == [
        "- two [has] too little disk.",
        "- the group doesn't work.",
        "- three doesn't answer.",
    ]
    assert output.err.splitlines()[-1].startswith("error: 3 of 3 nodes can't take part in a run")


def alive(count: int) -> list[dict[str, Any]]:
    return [
        {"Alive": True, "NodeID": str(i), "NodeManagerAddress": f"10.0.0.{i}", "Resources": {}} for i in range(count)
    ]


def test_one_node_is_asked_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [*alive(1), {"Alive": False}])
    monkeypatch.setattr(check, "run_preflight", lambda *_, **options: pytest.fail("it was asked"))
    check_nodes(make_work(tmp_path), PLACEMENT, SilentProgress(), num_trials=1)


def test_cluster_with_problems_is_refused_with_all_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: alive(2))
    monkeypatch.setattr(check, "run_preflight", lambda *_, **options: ILL)
    with pytest.raises(ResourceError) as refusal:
        check_nodes(make_work(tmp_path), PLACEMENT, SilentProgress(), num_trials=1)
    assert str(refusal.value).splitlines() == [
        "the cluster isn't ready, and nothing was started:",
        "- two [has] too little disk.",
        "- the group doesn't work.",
        "- three doesn't answer.",
        "`python -m dim_ray.doctor` checks it without running anything.",
    ]
    monkeypatch.setattr(check, "run_preflight", lambda *_, **options: WELL)
    check_nodes(make_work(tmp_path), PLACEMENT, SilentProgress(), num_trials=1)
