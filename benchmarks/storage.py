"""Benchmarks of what isn't arithmetic: images decoded, rows appended and read."""

from __future__ import annotations

import atexit
import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.measure import Case
from benchmarks.training import Setting
from dim_ray.core.data.decoding import Decoder
from dim_ray.store.reader import Reader
from dim_ray.store.schema import EVALUATIONS
from dim_ray.store.writer import Writer

__all__ = ["STORAGE", "folder", "row"]

_IMAGES = 1000
_ROWS = 500
_IPCS = (1, 10, 50)
_WRITTEN = ("id", "schema_version", "created_at")  # by the writer


def _decode(setting: Setting) -> list[Case]:
    size = setting.image_size
    noise = np.random.default_rng(0).integers(256, size=(_IMAGES, size, size), dtype=np.uint8)
    encoded = [_png(image) for image in noise]

    def decode() -> object:
        return Decoder().decode(encoded, lambda number: f"image {number}")

    return [
        Case(benchmark="decode", variant=f"PNG, {size} pixels", call=decode, items=len(encoded), has_arithmetic=False)
    ]


def _store(setting: Setting) -> list[Case]:
    numbers = itertools.count()
    small, large = folder(), folder()
    writer = Writer(small)
    rows = [row(number) for number in range(_ROWS)]
    Writer(large).append_evaluations(rows)
    of_one = sum(row["ipc"] == _IPCS[0] for row in rows)

    def case(benchmark: str, variant: str, call: Callable[[], object], items: int) -> Case:
        return Case(benchmark=benchmark, variant=variant, call=call, items=items, has_arithmetic=False)

    return [
        case("append", "one evaluation", lambda: writer.append_evaluations([row(next(numbers))]), 1),
        case("query", f"{_ROWS} evaluations", lambda: Reader(large).evaluations(), _ROWS),
        case("query", f"one IPC of {_ROWS} evaluations", lambda: Reader(large).evaluations(ipc=_IPCS[0]), of_one),
    ]


STORAGE: Mapping[str, Callable[[Setting], list[Case]]] = {"decode": _decode, "store": _store}
"""By name."""


def folder() -> str:
    """Return a new folder, which is deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="dim_ray_benchmark_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def row(number: int) -> dict[str, Any]:
    """Return an evaluation that fits the table: some value of each column's type, and the number as the seed."""
    row = {field.name: _value(field) for field in EVALUATIONS if field.name not in _WRITTEN}
    return {**row, "ipc": _IPCS[number % len(_IPCS)], "seed": number}


def _png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _value(field: pa.Field) -> Any:
    if field.nullable:
        return None
    if allowed := field.metadata.get(b"allowed"):
        return allowed.decode().split(", ")[0]
    if pa.types.is_string(field.type):
        return "something"
    return 1 if pa.types.is_integer(field.type) else 0.5
