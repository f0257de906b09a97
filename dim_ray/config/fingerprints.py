"""Fingerprint of a configuration: a hash of everything in it that changes results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

__all__ = ["fingerprint", "to_dict"]

_VERSION = 1  # raise it when the same configuration gives another result
_DIGITS = 16


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits for configurations and plain values.

    They don't depend on the process, the version of Python or the order of keys. 1 and 1.0 give the same digits; fields
    marked `place` are left out, and those marked `added` at their default, so that what was stored without them counts.
    """
    text = json.dumps([_VERSION, *map(_canonical, parts)], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _canonical(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        counted = [(f, getattr(value, f.name)) for f in fields(value) if not f.metadata.get("place")]
        return {f.name: _canonical(own) for f, own in counted if not (f.metadata.get("added") and own == f.default)}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (set, frozenset)):
        raise TypeError("The order of a set differs between processes; give fingerprint() a sorted list.")
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_canonical(item) for item in value]
    return value
