"""What a node tells of itself, and what it tries: the storage, and a process group with the other nodes.

    with sent_as_code():
        probe = ray.remote(NodeProbe).options(num_cpus=0, scheduling_strategy=...).remote(make_address_hook())
    ray.get(probe.facts.remote("/shared/dim_storage"))

A node may have another version of our code, or none. So this file is sent as code, imports nothing but the standard
library at its top, and answers with plain values.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["LIBRARIES", "NOT_SHARED", "NodeProbe", "code_digest", "free_memory", "library_versions", "sent_as_code"]

LIBRARIES = ("ray", "torch", "optuna", "pyarrow")
"""Distributions whose versions have to agree over the cluster."""
NOT_SHARED = "not shared"
"""What `NodeProbe.write_storage` says where the driver's file isn't there."""

_PACKAGES = ("dim_ray", "tuning")
_DIGEST_DIGITS = 8
_SOURCE_LINE = re.compile(r"\[\S+:\d+\] ")  # of gloo, in the middle of its messages


@contextmanager
def sent_as_code() -> Iterator[None]:
    """While the body runs, Ray sends what this file defines as code, and not as names to import."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class NodeProbe:
    """An actor on one node, in a process of its own.

    Args:
        set_up: What a worker's process begins with.
    """

    def __init__(self, set_up: Callable[[], None]) -> None:
        set_up()
        self._store: Any = None

    def facts(self, storage_folder: str | None) -> dict[str, Any]:
        """Returns what the node is.

        Args:
            storage_folder: The storage, where it's a folder and no object store.
        """
        import ray

        return {
            "versions": library_versions(),
            "memory_bytes": free_memory(),
            "temp_bytes": _free_disk(ray.get_runtime_context().get_temp_dir()),
            "storage_bytes": _free_disk(storage_folder) if storage_folder else None,
            "num_gpus_seen": _num_gpus(),
            "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
            "interfaces": tuple(name for _, name in socket.if_nameindex()),
            "host_name": socket.gethostname(),
            "host_address": _resolve(socket.gethostname()),
        }

    def write_storage(self, root: str, theirs: str, ours: str, content: bytes) -> str | None:
        """Reads what the driver wrote, and writes the same under another key.

        Returns:
            What went wrong: `NOT_SHARED`, or a sentence.
        """
        try:
            from dim_ray.errors import DimError
            from dim_ray.store.files.filesystem import open_root
        except ImportError as error:
            return f"dim_ray can't be imported ({error})"
        try:
            opened = open_root(root)
            if opened.read(theirs) != content:
                return NOT_SHARED
            opened.write(ours, content)
        except DimError as error:
            return str(error)
        return None

    def delete_storage(self, root: str, ours: str) -> str | None:
        """Deletes what `write_storage` wrote, and returns what went wrong."""
        from dim_ray.errors import DimError
        from dim_ray.store.files.filesystem import open_root

        try:
            open_root(root).delete(ours)
        except DimError as error:
            return str(error)
        return None

    def open_group(self, address: str, num_workers: int, seconds: float) -> int:
        """Opens the place where the workers of a process group meet, and returns its port."""
        self._store = _meeting(address, 0, num_workers, seconds, is_master=True)
        port: int = self._store.port
        return port

    def join_group(self, address: str, port: int, rank: int, num_workers: int, seconds: float) -> str | None:
        """Joins a gloo process group and sums 1, 2, ... over it.

        Returns:
            What went wrong; None where the sum is right.
        """
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        try:
            store = self._store or _meeting(address, port, num_workers, seconds, is_master=False)
            within = timedelta(seconds=seconds)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=num_workers, timeout=within)
            total = torch.tensor([rank + 1.0])
            dist.all_reduce(total)
        except (RuntimeError, ValueError) as error:  # PyTorch's own are RuntimeErrors
            text = _SOURCE_LINE.sub("", str(error))
            return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        expected = sum(range(num_workers + 1))
        return None if total.item() == expected else f"the sum over the group is {total.item():g}, and not {expected}"


def library_versions() -> dict[str, str]:
    """Returns what this process would run with, by name: Python, libraries, and the digest of our code."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            # Builds for another accelerator differ behind the plus.
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    try:
        import dim_ray
    except ImportError:
        return {**found, "dim_ray": "missing"}
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    folders = [Path(spec.origin).parent for spec in specs if spec and spec.origin]
    return {**found, "dim_ray": dim_ray.__version__, "code": code_digest(folders)}


def code_digest(folders: list[Path]) -> str:
    """Returns 8 hexadecimal digits that identify the Python files of some packages, by path and content."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:_DIGEST_DIGITS]


def free_memory(system: Path = Path("/")) -> int | None:
    """Returns the bytes that new processes can have: the machine's, or less where a cgroup limits this one.

    Args:
        system: Where `proc` and `sys` are.

    Returns:
        None where there is no `proc`.
    """
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    meminfo = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return min(meminfo["MemAvailable"], *_cgroup_free(system), sys.maxsize)


def _cgroup_free(system: Path) -> Iterator[int]:
    """Yields what is left below the limit of each cgroup that this process is in."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        group = Path(path.lstrip("/"))
        for level in (group, *group.parents):  # inside of a container, the outer levels alone are there
            folder = system / base / level
            try:
                most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if most != "max":
                yield int(most) - used + int(statistics.get(cache, 0))


def _free_disk(folder: str) -> int:
    place = Path(folder)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _num_gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def _resolve(host_name: str) -> str | None:
    try:
        return socket.gethostbyname(host_name)
    except OSError:
        return None


def _meeting(address: str, port: int, num_workers: int, seconds: float, *, is_master: bool) -> Any:
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    within = timedelta(seconds=seconds)
    return TCPStore(address, port, num_workers, is_master, timeout=within, wait_for_workers=False)
