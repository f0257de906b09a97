from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch

from dim_ray.core.data.dataset import Dataset
from dim_ray.distributed import measure, tasks, trainer
from dim_ray.distributed.cluster.held import on_held_device
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.local_board import LocalBoard
from tests.helpers.small import make_work


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of threads that torch is told; it keeps its own."""
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    return threads


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, threads: list[int]) -> list[str]:
    """Devices that data were moved to, on a machine with a GPU."""
    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: None)
    monkeypatch.setattr(Dataset, "to", lambda dataset, device: devices.append(device) or dataset)
    return devices


def give(monkeypatch: pytest.MonkeyPatch, assigned: Mapping[str, float]) -> None:
    """Make this a process of Ray's that holds these resources."""
    context = SimpleNamespace(get_assigned_resources=lambda: dict(assigned), get_node_id=lambda: "node")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)


@pytest.mark.parametrize(
    ("assigned", "num_threads", "moved"),
    [
        ({"CPU": 2.0}, 2, []),
        ({"CPU": 2.0, "GPU": 1.0}, 2, ["cuda"]),
        ({"CPU": 3.0, "GPU": 0.25}, 3, ["cuda"]),
        ({"node:__internal_head__": 0.001}, 1, []),
    ],
)
def test_process_uses_the_cores_that_it_holds_and_a_gpu_where_it_holds_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: list[str],
    threads: list[int],
    assigned: Mapping[str, float],
    num_threads: int,
    moved: list[str],
) -> None:
    give(monkeypatch, assigned)
    on_held_device(make_work(tmp_path))
    assert devices == moved
    assert threads == [num_threads]


def run_task(work: Workspace) -> None:
    tasks._run(lambda work, argument, reporter: None, work, None, LocalBoard(), "teacher 0")


def run_worker(work: Workspace) -> None:
    job = {"job": lambda work, report_to, collective: None, "run": "teachers"}
    trainer._worker({**job, "work": work, "board": LocalBoard()})


def run_validation(work: Workspace) -> None:
    measure._validate(work, "0123456789abcdef")


@pytest.mark.parametrize(("process", "device"), [(run_task, "cuda"), (run_worker, "cuda:1"), (run_validation, "cuda")])
@pytest.mark.parametrize("num_gpus", [0.0, 1.0])
def test_task_worker_and_validation_leave_a_gpu_that_they_do_not_hold_to_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: list[str],
    process: Callable[[Workspace], None],
    device: str,
    num_gpus: float,
) -> None:
    give(monkeypatch, {"CPU": 1.0, "GPU": num_gpus} if num_gpus else {"CPU": 1.0})
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(trainer, "TorchCollective", lambda device: None)
    monkeypatch.setattr(trainer, "get_device", lambda: "cuda:1")  # Ray Train shows all GPUs of a node
    monkeypatch.setattr(measure, "load_module", lambda work, name, weights: None)
    monkeypatch.setattr(measure, "validate", lambda work, generator: {})
    process(make_work(tmp_path))
    assert devices == [device] * bool(num_gpus)
