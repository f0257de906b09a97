"""Checks of the sections' values: each message has the field, the value and what is allowed."""

from __future__ import annotations

import functools
import math
import unicodedata
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dim_ray.config.names import MAX_NAME_BYTES, is_name
from dim_ray.errors import ConfigError, listed, nearest

__all__ = [
    "NormalisationKind",
    "Precision",
    "require",
    "require_batch",
    "require_below_one",
    "require_distinct",
    "require_known",
    "require_name",
    "require_not_negative",
    "require_positive",
    "require_seed",
]


Precision = Literal["float32", "bfloat16", "auto"]
NormalisationKind = Literal["measured", "dim", "dim_signed"]


def require(condition: bool, where: str, value: object, allowed: str) -> None:
    """Refuse the value of a field unless the condition is met."""
    if not condition:
        raise ConfigError(f"{where} is {listed([repr(value)])}; allowed: {allowed}.")


def require_positive(section: str, config: object, *names: str) -> None:
    """Refuse anything but finite numbers above 0, or None, in these fields."""
    for name in names:
        value = getattr(config, name)
        require(value is None or (math.isfinite(value) and value > 0), f"{section}.{name}", value, "a number above 0")


def require_not_negative(section: str, config: object, *names: str) -> None:
    """Refuse anything but finite numbers of 0 or more, or None, in these fields."""
    for name in names:
        value = getattr(config, name)
        require(value is None or (math.isfinite(value) and value >= 0), f"{section}.{name}", value, "0 or more")


def require_below_one(section: str, config: object, *names: str) -> None:
    """Refuse anything outside of [0, 1) in these fields."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{section}.{name}", value, "[0, 1)")


def require_batch(where: str, batch_size: int) -> None:
    """Refuse a batch size that is too small for BatchNorm."""
    require(batch_size >= 2, where, batch_size, "2 or more: BatchNorm needs two images")


def require_known(section: str, config: object) -> None:
    """Refuse unknown names, and repeated ones in a list, in all fields whose type is a `Literal` or a tuple of one."""
    for field, hint in _hints(type(config)).items():
        where, value, options = f"{section}.{field}", getattr(config, field), get_args(hint)
        if get_origin(hint) is Literal:
            require(value in options, where, value, " or ".join(options))
        elif get_origin(hint) is tuple and get_origin(options[0]) is Literal:
            for name in value:
                if name not in get_args(options[0]):
                    raise ConfigError(f"{where} has {name!r}, which is unknown; {nearest(name, get_args(options[0]))}")
            require_distinct(where, value)


_hints: Any = functools.cache(get_type_hints)


def require_seed(where: str, seed: int) -> None:
    """Refuse a negative seed."""
    require(seed >= 0, where, seed, "a whole number of 0 or more")


def require_distinct(where: str, values: tuple[object, ...]) -> None:
    """Refuse a repeated value."""
    require(len(set(values)) == len(values), where, values, "each value once")


def require_name(where: str, name: str) -> None:
    """Refuse a name that can't be part of a path on every storage."""
    is_short = len(name.encode(errors="replace")) <= MAX_NAME_BYTES
    allowed = f"letters, digits, '.', '_' and '-', the first not a sign, {MAX_NAME_BYTES} bytes at most"
    require(is_short and is_name(unicodedata.normalize("NFC", name)), where, name, allowed)
