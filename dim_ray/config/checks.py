"""What the sections check of their values: each says the field, the value and what is allowed."""

from __future__ import annotations

import math
import re
from typing import Literal, get_args

from dim_ray.errors import ConfigError, nearest

__all__ = [
    "DSA_OPERATIONS",
    "Precision",
    "require",
    "require_augmentation",
    "require_batch",
    "require_below_one",
    "require_distinct",
    "require_name",
    "require_not_negative",
    "require_positive",
    "require_precision",
    "require_range",
    "require_seed",
]

DSA_OPERATIONS = ("color", "crop", "cutout", "flip", "rotate", "scale")

Precision = Literal["float32", "bfloat16", "auto"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_BATCH_SIZE = "batch_size"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def require(condition: bool, where: str, value: object, allowed: str) -> None:
    """Refuses the value of a field if the condition is not met."""
    if not condition:
        raise ConfigError(f"{where} is {value!r}; allowed: {allowed}.")


def require_positive(section: str, config: object, *names: str) -> None:
    """Refuses what isn't a finite number above 0 in the fields of these names."""
    for name in names:
        value = getattr(config, name)
        require(math.isfinite(value) and value > 0, f"{section}.{name}", value, "a number above 0")


def require_not_negative(section: str, config: object, *names: str) -> None:
    """Refuses what isn't a finite number of 0 or more in the fields of these names."""
    for name in names:
        value = getattr(config, name)
        require(math.isfinite(value) and value >= 0, f"{section}.{name}", value, "0 or more")


def require_below_one(section: str, config: object, *names: str) -> None:
    """Refuses what isn't in [0, 1) in the fields of these names."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{section}.{name}", value, "[0, 1)")


def require_batch(section: str, config: object) -> None:
    """Refuses a batch size that BatchNorm can't measure."""
    batch_size = getattr(config, _BATCH_SIZE)
    require(batch_size >= 2, f"{section}.{_BATCH_SIZE}", batch_size, "2 or more: BatchNorm needs two images")


def require_range(where: str, bounds: tuple[float, float]) -> None:
    """Refuses bounds that no logarithmic scale has."""
    low, high = bounds
    require(
        math.isfinite(low) and math.isfinite(high) and 0 < low <= high,
        where,
        bounds,
        "two numbers, 0 < lowest <= highest",
    )


def require_precision(where: str, value: str) -> None:
    """Refuses an unknown precision."""
    require(value in PRECISIONS, where, value, " or ".join(PRECISIONS))


def require_seed(where: str, seed: int) -> None:
    """Refuses a negative seed."""
    require(seed >= 0, where, seed, "a whole number of 0 or more")


def require_distinct(where: str, values: tuple[object, ...]) -> None:
    """Refuses a value that is there twice."""
    require(len(set(values)) == len(values), where, values, "each value once")


def require_name(where: str, name: str) -> None:
    """Refuses what can't be a part of a path on every storage."""
    require(_NAME.fullmatch(name) is not None, where, name, "letters, digits, '.', '_' and '-', the first not a sign")


def require_augmentation(where: str, strategy: str) -> None:
    """Refuses a strategy with an unknown DSA operation."""
    if strategy == "none":
        return
    for operation in strategy.split("+" if "+" in strategy else "_"):
        if operation not in DSA_OPERATIONS:
            raise ConfigError(
                f"{where} is {strategy!r}, with the unknown operation {operation!r}; "
                f"{nearest(operation, DSA_OPERATIONS)} Join several with '_' (one of them is drawn) "
                "or '+' (all are applied), or write 'none'."
            )
