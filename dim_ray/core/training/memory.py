"""How the memory of a step's tensors is kept for the next step's.

    keep_freed_memory()      # once, in a process that trains

A training step on a CPU frees hundreds of tensors and asks for the same ones again. The C library gives large ones back
to the system each time, which then has to clear every page anew: an eighth of an adversarial step in float32 at
capacity 196 (docs/benchmarks.md). The price is that a process holds its largest amount of memory until it ends, and
somewhat more, because free pieces don't always fit.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Has this process keep the memory that tensors on the CPU free, for those to come.

    Results don't depend on it. It does nothing where the C library isn't glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_MAX, 0)
