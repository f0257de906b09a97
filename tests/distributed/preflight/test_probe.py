from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ray import cloudpickle

from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.preflight.check import _group_backend
from dim_ray.distributed.preflight.findings import NodeReport
from dim_ray.distributed.preflight.probe import (
    NOT_SHARED,
    NodeProbe,
    code_digest,
    free_memory,
    library_versions,
    sent_as_code,
)

MEMINFO = "MemTotal:       16000 kB\nMemFree:         100 kB\nMemAvailable:    8000 kB\nHugePages_Total:  0\n"


@pytest.fixture
def node() -> NodeProbe:
    return NodeProbe(lambda: None)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_memory_of_a_machine_is_what_it_has_available(tmp_path: Path) -> None:
    assert free_memory(write(tmp_path, {"proc/meminfo": MEMINFO})) == 8000 * 1024


def test_memory_is_less_below_the_limit_of_a_cgroup(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/jobs"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/jobs/mine\n",
        f"{group}/mine/memory.max": "max\n",
        f"{group}/mine/memory.current": "10\n",
        f"{group}/mine/memory.stat": "anon 10\n",
        f"{group}/memory.max": "5000\n",
        f"{group}/memory.current": "3000\n",
        f"{group}/memory.stat": "anon 1\ninactive_file 400\n",
    }
    assert free_memory(write(tmp_path, files)) == 5000 - 3000 + 400


def test_memory_is_less_below_the_limit_of_an_old_cgroup(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "3:cpu,cpuacct:/\n2:memory:/docker/1234\n0::/\n",  # the path is that outside
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "3000\n",
        "sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_inactive_file 500\n",
    }
    assert free_memory(write(tmp_path, files)) == 5000 - 3000 + 500


def test_memory_is_unknown_where_there_is_no_proc(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


def test_digest_of_code_changes_with_a_comment_and_with_a_name(tmp_path: Path) -> None:
    def digest(name: str, files: dict[str, str]) -> str:
        return code_digest([write(tmp_path / name / "package", files)])

    same = digest("a", {"one.py": "x = 1\n", "sub/two.py": "y = 2\n", "notes.txt": "a"})
    assert digest("b", {"one.py": "x = 1\n", "sub/two.py": "y = 2\n", "notes.txt": "b"}) == same
    assert digest("c", {"one.py": "x = 1  # one\n", "sub/two.py": "y = 2\n"}) != same
    assert digest("d", {"one.py": "x = 1\n", "sub/three.py": "y = 2\n"}) != same
    assert digest("e", {"one.py": "x = 1\nsub/two.py", "sub/two.py": "y = 2\n"}) != same


def test_versions_name_everything_that_has_to_agree() -> None:
    found = library_versions()
    assert list(found) == ["Python", "ray", "torch", "optuna", "pyarrow", "dim_ray", "code"]
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert "missing" not in found.values()


def test_probe_is_sent_to_nodes_that_have_none_of_our_code(tmp_path: Path) -> None:
    with sent_as_code():
        data = cloudpickle.dumps((NodeProbe, library_versions))
    assert len(cloudpickle.dumps(NodeProbe)) < 200 < len(data)  # a name again
    (tmp_path / "probe.pickle").write_bytes(data)
    code = (
        "import pickle, sys, ray.cloudpickle\n"
        "sys.modules['dim_ray'] = None\n"
        "kind, versions = pickle.load(open('probe.pickle', 'rb'))\n"
        "node = kind(lambda: None)\n"
        "print(versions()['dim_ray'], node.write_storage('/x', 'a', 'b', b'c'), sep='|')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    version, problem = result.stdout.strip().split("|")
    assert version == "missing", result.stderr
    assert problem.startswith("dim_ray can't be imported")


def test_storage_is_read_and_written(node: NodeProbe, tmp_path: Path) -> None:
    (tmp_path / ".driver").write_bytes(b"content")
    assert node.write_storage(str(tmp_path), ".driver", ".node", b"content") is None
    assert (tmp_path / ".node").read_bytes() == b"content"


def test_nothing_is_written_to_a_storage_without_the_drivers_file(node: NodeProbe, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    assert node.write_storage(str(root), ".driver", ".node", b"content") == NOT_SHARED
    assert not root.exists()


def test_storage_that_can_not_be_written_says_why(node: NodeProbe, tmp_path: Path) -> None:
    (tmp_path / ".driver").write_bytes(b"content")
    (tmp_path / "file").touch()
    problem = node.write_storage(str(tmp_path), ".driver", "file/.node", b"content")
    assert problem is not None
    assert problem.startswith(f"can't write {tmp_path}/file/.node: ")


def test_group_with_a_missing_member_is_an_error_within_its_time(node: NodeProbe) -> None:
    port = node.open_group("127.0.0.1", 2, 1.0)
    began = time.monotonic()
    error = node.join_group("gloo", "127.0.0.1", port, 0, 2, 1.0)
    assert time.monotonic() - began < 10.0
    assert error
    assert "\n" not in error
    assert not torch.distributed.is_initialized()


def test_group_that_needs_a_gpu_is_an_error_without_one(node: NodeProbe) -> None:
    error = node.join_group("nccl", "127.0.0.1", node.open_group("127.0.0.1", 1, 5.0), 0, 1, 5.0)
    assert bool(error) != torch.cuda.is_available()


@pytest.mark.parametrize(
    ("gpus", "seen", "addresses", "backend"),
    [
        (1.0, (1, 8), ("10.0.0.1", "10.0.0.2"), "nccl"),
        (0.0, (1, 8), ("10.0.0.1", "10.0.0.2"), "gloo"),
        (1.0, (1, 0), ("10.0.0.1", "10.0.0.2"), "gloo"),
        (1.0, (2, 2), ("10.0.0.1", "10.0.0.1"), "gloo"),
    ],
)
def test_group_is_tried_as_the_workers_will_use_it(
    gpus: float, seen: tuple[int, ...], addresses: tuple[str, ...], backend: str
) -> None:
    placement = Placement(num_workers=2, cpus_per_worker=1, gpus_per_worker=gpus, max_concurrent=1)
    reports = [NodeReport(name="node", num_workers=1, num_gpus=number, num_gpus_seen=number) for number in seen]
    assert _group_backend(placement, reports, addresses) == backend
