"""Time pieces of work in turns, so that whatever else the machine does meets all of them alike.

    measured = measure([plain, tuned], repeats=10, device=torch.device("cpu"))
    measured[0].median / measured[1].median

Ratios within one run are what these numbers are for; on a shared machine the milliseconds themselves come and go.
"""

from __future__ import annotations

import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dim_ray.config import Precision

__all__ = ["MATRIX_PRODUCT", "Case", "Measurement", "describe", "matrix_products", "measure"]

MATRIX_PRODUCT = "matrix product"
"""The benchmark whose rate others are shares of."""

_MATRIX_SIZE = 1024
_OPERATIONS_PER_MAC = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A piece of work that can be repeated."""

    benchmark: str
    """What is measured; cases of the same one are compared."""
    variant: str
    """How it's done."""
    call: Callable[[], object]
    """Does it once."""
    items: int
    """Images, or rows, of one call."""
    precision: Precision = "float32"
    """float32 or bfloat16: which matrix products it is compared with."""
    has_arithmetic: bool = True
    """Whether its work is convolutions and matrix products."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A case's times."""

    case: Case
    seconds: tuple[float, ...]
    """Of each call."""
    macs: int
    """Multiply-accumulate operations of a call's convolutions and matrix products; 0 where they weren't counted."""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third, in seconds; the same number twice for one call."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def items_per_second(self) -> float:
        """At the median."""
        return self.case.items / self.median

    @property
    def macs_per_second(self) -> float:
        """At the median; 0 where they weren't counted."""
        return self.macs / self.median


def measure(cases: Sequence[Case], *, repeats: int, device: torch.device) -> list[Measurement]:
    """Run every case once to warm up and to count its operations, and then all of them in turn.

    Args:
        cases: What to run, in this order.
        repeats: Calls of each that are timed.
        device: Is waited for after every call.
    """
    macs = [_count_macs(case) for case in cases]
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for case, own in zip(cases, seconds, strict=True):
            _wait_for(device)
            started = time.perf_counter()
            case.call()
            _wait_for(device)
            own.append(time.perf_counter() - started)
    return [
        Measurement(case=case, seconds=tuple(own), macs=count)
        for case, own, count in zip(cases, seconds, macs, strict=True)
    ]


def matrix_products(device: torch.device, precisions: Sequence[Precision], size: int = _MATRIX_SIZE) -> list[Case]:
    """Return products of matrices (size, size): the rate that a device reaches where nothing but arithmetic counts."""
    cases = []
    for precision in precisions:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        matrix = torch.randn(size, size, device=device).to(dtype)
        cases.append(
            Case(
                benchmark=MATRIX_PRODUCT,
                variant=precision,
                call=partial(torch.mm, matrix, matrix),
                items=1,
                precision=precision,
            )
        )
    return cases


def describe(device: torch.device) -> dict[str, str]:
    """Return date, commit, hardware and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _count_macs(case: Case) -> int:
    if not case.has_arithmetic:
        case.call()
        return 0
    counter = _Counter()
    with counter:
        case.call()
    return counter.operations // _OPERATIONS_PER_MAC


class _Counter(TorchDispatchMode):
    """Counts floating-point operations by PyTorch's own formulas.

    PyTorch's FlopCounterMode also follows the modules, with hooks that a second derivative doesn't allow.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            return result
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            # PyTorch's formula forgets that a weight of convolutions in groups sees only one group of channels.
            *first, groups, (of_images, of_weights, _) = args
            self.operations += int(formula(*first, groups, (of_images, False, False), out_val=result))
            self.operations += int(formula(*first, groups, (False, of_weights, False), out_val=result)) // groups
        else:
            self.operations += int(formula(*args, **kwargs, out_val=result))
        return result


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # a machine without git
        return "unknown"
    return found.stdout.strip() or "unknown"
