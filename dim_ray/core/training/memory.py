"""Keep a step's freed memory for the next step; call `keep_freed_memory` once in a process that trains.

A training step on a CPU frees hundreds of tensors and asks for the same ones again. The C library gives large ones back
to the system each time, which then has to clear every page anew: an eighth of an adversarial step in float32 at
capacity 196 (docs/benchmarks.md). In exchange, a process holds a little more than its largest amount until it ends.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep the memory that CPU tensors free. It has no effect where the C library isn't glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_MAX, 0)
