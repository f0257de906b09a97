"""Identity of a configuration: a hash of everything in it that changes the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

__all__ = ["fingerprint", "to_dict"]

_VERSION = 1  # raise it when the same configuration begins to give another result
_DIGITS = 16


def fingerprint(*parts: Any) -> str:
    """Returns 16 hexadecimal digits that identify configurations and plain values by what they lead to.

    The same in every process, version of Python and order of keys. 1 and 1.0 are the same; fields marked
    `place` are left out.
    """
    text = json.dumps([_VERSION, *map(_canonical, parts)], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _canonical(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _canonical(getattr(value, f.name)) for f in fields(value) if not f.metadata.get("place")}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (set, frozenset)):
        raise TypeError("A set has no order that is the same in every process; give fingerprint() a sorted list.")
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_canonical(item) for item in value]
    return value
