"""What a distillation would take on more workers: compute that is measured here, communication that is computed.

The global batch stays, so each of W workers has a W-th of it. What a step sends is counted from the networks: gradients
of generator and discriminator, an all-reduce each, and the statistics of the generator's batch norms, gathered twice
forwards and once backwards. A ring all-reduce of B bytes over W workers takes 2 (W - 1) / W x B / bandwidth, and
2 (W - 1) times the latency of a message (Patarasuk and Yuan, J. Parallel Distrib. Comput. 69, 2009); a gather half.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rich import box
from rich.table import Table
from torch import Tensor, nn

from benchmarks.measure import Case, Measurement
from benchmarks.training import Setting, matching_case, matching_stage, noise_images, untrained_teacher
from dim_ray.core.networks.batch_norm import BatchNorm1d, BatchNorm2d
from dim_ray.core.teachers.pool import StoredPool
from dim_ray.core.training.ports import SingleWorker

__all__ = ["compute_cases", "scaling_table", "traffic"]

_FLOAT_BYTES = 4
_PASSES = 3  # through the generator: one for the discriminator's step, one for its own, and that one's derivative


@dataclass(frozen=True, kw_only=True)
class _Link:
    """What connects the workers."""

    name: str
    bytes_per_second: float
    latency_seconds: float


_LINKS = (
    _Link(name="NVLink", bytes_per_second=300e9, latency_seconds=5e-6),
    _Link(name="100 Gbit/s", bytes_per_second=11e9, latency_seconds=20e-6),
    _Link(name="10 Gbit/s", bytes_per_second=1.1e9, latency_seconds=50e-6),
)


def compute_cases(setting: Setting) -> list[Case]:
    """Return a step of one worker for each power of two of workers: with its share of the batch."""
    cases = []
    num_workers = 1
    while num_workers <= setting.batch_size:
        own = replace(setting, batch_size=setting.batch_size // num_workers)
        dataset = noise_images(own)
        pool = StoredPool([untrained_teacher("convnet3", dataset, 0)], dataset)
        variant = f"{own.batch_size} images, one of {num_workers} workers"
        cases.append(matching_case(own, "matching step", variant, pool, dataset, _OneOfMany(num_workers)))
        num_workers *= 2
    return cases


def traffic(setting: Setting) -> tuple[list[int], list[int]]:
    """Return the bytes of each all-reduce of a step, and of each gather by one worker."""
    dataset = noise_images(setting, count=10)
    pool = StoredPool([untrained_teacher("convnet3", dataset, 0)], dataset)
    pair, _ = matching_stage(setting, pool, dataset, SingleWorker())
    reduced = [_FLOAT_BYTES * _count(network.parameters()) for network in (pair.generator, pair.discriminator)]
    norms = [part for part in pair.generator.modules() if isinstance(part, BatchNorm1d | BatchNorm2d)]
    return reduced, [2 * _FLOAT_BYTES * norm.num_features for norm in norms] * _PASSES


def scaling_table(setting: Setting, measured: list[Measurement]) -> Table:
    """Return speed-ups over one worker, a row for each number of workers.

    Args:
        setting: Capacity and batch.
        measured: Of `compute_cases`.
    """
    reduced, gathered = traffic(setting)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"a step sends {sum(reduced) / 1e6:.1f} MB of gradients in {len(reduced)} messages, and "
        f"{sum(gathered) / 1e3:.0f} kB of statistics in {len(gathered)}",
        title_justify="left",
    )
    for name in ("workers", "images each", "compute ms", *(f"{link.name}: ms, speed-up" for link in _LINKS)):
        table.add_column(name, justify="right")
    one_worker = measured[0].median
    for power, own in enumerate(measured):
        num_workers = 2**power
        cells = []
        for link in _LINKS:
            seconds = sum(_ring(link, num_workers, size) for size in reduced)
            seconds += sum(_ring(link, num_workers, size * num_workers) / 2 for size in gathered)
            cells.append(f"{1e3 * seconds:.2f}, {one_worker / (own.median + seconds):.1f}x")
        table.add_row(str(num_workers), str(own.case.items), f"{1e3 * own.median:.1f}", *cells)
    return table


class _OneOfMany(SingleWorker):
    """Workers that are all alike, so that nothing has to be sent."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor.detach()] * self.num_workers


def _ring(link: _Link, num_workers: int, size_bytes: int) -> float:
    """Return the seconds of an all-reduce."""
    share = 2 * (num_workers - 1) / num_workers
    return share * size_bytes / link.bytes_per_second + 2 * (num_workers - 1) * link.latency_seconds


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
