"""A node's probe: an actor that reports facts, and tries the storage and a process group with the other nodes.

    with sent_as_code():
        probe = ray.remote(NodeProbe).options(num_cpus=0, scheduling_strategy=...).remote(make_address_hook())
    ray.get(probe.facts.remote("/shared/dim_storage"))

A node may have another version of our code, or none. So this file is sent as code, imports only the standard library at
its top, and answers with plain values.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

__all__ = ["NOT_SHARED", "NodeProbe", "code_digest", "free_memory", "library_versions", "sent_as_code"]

NOT_SHARED = "not shared"
"""Answer of `NodeProbe.write_storage` if the driver's file isn't there."""

_LIBRARIES = ("ray", "torch", "optuna", "pyarrow")
_DIGEST_DIGITS = 8
_CGROUPS = {  # files of the memory's limit and usage, by controller
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_SOURCE_LINE = re.compile(r"\[\S+:\d+\] ")  # of gloo, in the middle of its messages


@contextmanager
def sent_as_code() -> Iterator[None]:
    """Make Ray send this file's classes and functions as code, and not as names to import, while the body runs."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class NodeProbe:
    """An actor in a process of its own.

    Args:
        set_up: Function that prepares the process as it does a worker's.
    """

    def __init__(self, set_up: Callable[[], None]) -> None:
        set_up()
        self._store: Any = None

    def facts(self, storage_folder: str | None) -> dict[str, Any]:
        """Return fields of the node's `NodeReport`.

        Args:
            storage_folder: The storage, if it is a folder.
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
        }

    def write_storage(self, root: str, theirs: str, ours: str, content: bytes) -> str | None:
        """Read what the driver wrote under one key, and write the same under another.

        Returns:
            What went wrong, `NOT_SHARED` or a sentence; None if all went well.
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

    def open_group(self, address: str, num_workers: int, seconds: float) -> int:
        """Open the store at which the workers of a process group meet, and return its port."""
        self._store = _open_store(address, 0, num_workers, seconds, is_master=True)
        port: int = self._store.port
        return port

    def join_group(
        self, backend: str, address: str, port: int, rank: int, num_workers: int, seconds: float
    ) -> str | None:
        """Join a process group, gloo or nccl, and sum 1, 2, ... over it.

        Returns:
            What went wrong; None if the sum is right.
        """
        import torch
        import torch.distributed as dist

        try:
            store = self._store or _open_store(address, port, num_workers, seconds, is_master=False)
            within = timedelta(seconds=seconds)
            os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"  # otherwise a timeout ends the process
            dist.init_process_group(backend, store=store, rank=rank, world_size=num_workers, timeout=within)
            total = torch.tensor([rank + 1.0], device="cuda" if backend == "nccl" else "cpu")
            dist.all_reduce(total)
        except (RuntimeError, ValueError) as error:  # PyTorch's own are RuntimeErrors
            text = _SOURCE_LINE.sub("", str(error))
            return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        expected = sum(range(num_workers + 1))
        return None if total.item() == expected else f"the sum over the group is {total.item():g}, not {expected}"


def library_versions() -> dict[str, str]:
    """Return the versions of this process, by name: Python, libraries, dim_ray, and a digest of its code."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in _LIBRARIES:
        try:
            # Builds for different accelerators differ behind the plus.
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    try:
        import dim_ray
    except ImportError:
        return {**found, "dim_ray": "missing"}
    package = Path(dim_ray.__file__).parent
    digest = code_digest([package, package.with_name("tuning")])
    return {**found, "dim_ray": dim_ray.__version__, "code": digest}


def code_digest(folders: list[Path]) -> str:
    """Return 8 hexadecimal digits of the paths and contents of the Python files in some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:_DIGEST_DIGITS]


def free_memory(system: Path = Path("/")) -> int | None:
    """Return the bytes that new processes can use, within the limits of cgroups; None if there is no `proc`.

    Args:
        system: Folder of `proc` and `sys`.
    """
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    meminfo = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return min(meminfo["MemAvailable"], *_cgroup_free(system), sys.maxsize)


def _cgroup_free(system: Path) -> Iterator[int]:
    """Yield what is left below the limit of each cgroup that this process is in."""
    file = system / "proc/self/cgroup"
    for line in file.read_text().splitlines() if file.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in _CGROUPS:
            continue
        base, limit, usage, cache = _CGROUPS[controllers]
        group = Path(path.lstrip("/"))
        for level in (group, *group.parents):  # a container shows only the outer levels
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


def _open_store(address: str, port: int, num_workers: int, seconds: float, *, is_master: bool) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    within = timedelta(seconds=seconds)
    return TCPStore(address, port, num_workers, is_master, timeout=within, wait_for_workers=False)
