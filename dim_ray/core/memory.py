"""How the memory of a step's tensors is kept for the next step's.

    keep_freed_memory()      # once, in a process that trains

A training step on a CPU frees hundreds of tensors and asks for the same ones again. The C library gives large ones back
to the system each time, which then has to clear every page anew: a quarter of an adversarial step at capacity 196
(docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_MEGABYTE = 2**20
_KEPT = {_TRIM_THRESHOLD: _NEVER, _MMAP_MAX: 0}
# What glibc adapts itself to by default, once a process has freed a large tensor.
_ADAPTED = {_MMAP_THRESHOLD: 32 * _MEGABYTE, _TRIM_THRESHOLD: 64 * _MEGABYTE, _MMAP_MAX: 65536}


def keep_freed_memory(keep: bool = True) -> None:
    """Has this process keep the memory that tensors on the CPU free, for those to come; or give it back again.

    Results don't depend on it. It does nothing where the C library isn't glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in (_KEPT if keep else _ADAPTED).items():
            mallopt(name, value)
