"""The field `study.space`: the fields that a search may choose, and their values.

    read_space({
        "matching.kind": ["logit_means", "features"],
        "matching.learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
        "matching.temperature": {"values": [1.0, 4.0], "when": {"matching.kind": ["logit_means"]}},
    })

A field with a condition is chosen only if each field named there has one of these values; otherwise it keeps its
configured value.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from dim_ray.config.checks import require, require_distinct
from dim_ray.config.networks import GeneratorConfig, NetworksConfig
from dim_ray.config.training import MatchingConfig, PoolConfig, PriorConfig
from dim_ray.errors import ConfigError, listed, nearest

__all__ = ["SEED", "Choice", "as_parameter", "assignments", "combinations", "read_space"]

SEED = "matching.seed"
"""Only a grid may list it."""
_SECTIONS: Mapping[str, type] = {
    "networks": NetworksConfig,
    "pool": PoolConfig,
    "generator": GeneratorConfig,
    "prior": PriorConfig,
    "matching": MatchingConfig,
}
_LUCK = f"a search must not hunt for lucky seeds; a grid may list those of {SEED}"
_ALIKE = "every trial has to be measured alike"
_NO_EFFECT = "it doesn't change what comes out"
_REASONS: Mapping[str, str] = {
    "data": "trials on other data can't be compared",
    "evaluation": _ALIKE,
    "networks.students": _ALIKE,
    "study": "it's about the search itself",
    "storage": _NO_EFFECT,
    "health": _NO_EFFECT,
    "pool.seed": _LUCK,
    "prior.seed": _LUCK,
    "matching.epochs": "trials are compared at the same rungs",
}
_RANGE_KEYS, _LIST_KEYS = {"low", "high", "log", "when"}, {"values", "when"}
_SHAPES = "a list of values, {values: [...]} or {low: ..., high: ..., log: true}; the last two may have when"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The values that may be chosen for one field."""

    field: str
    """Section and name, such as matching.kind; also the parameter's name."""
    values: tuple[Any, ...] = ()
    """Values of a list, as parameters have them; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    """Ends of a range."""
    log: bool = False
    """Whether the range is logarithmic."""
    when: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Condition: unconditional fields, each with the values that it must have one of."""

    @property
    def makes_networks(self) -> bool:
        """Whether the field decides which teachers or priors are needed."""
        return not self.field.startswith("matching.") or self.field == "matching.kind"

    def is_open(self, chosen: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for the values chosen so far."""
        return all(field in chosen and chosen[field] in values for field, values in self.when.items())

    def holds(self, value: Any) -> bool:
        """Return whether a value may be chosen."""
        return value in self.values if self.values else value is not None and self.low <= value <= self.high

    @property
    def is_ordered(self) -> bool:
        """Whether it's a list of numbers, whose order means something; a list of names has none."""
        return bool(self.values) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values
        )

    def at(self, share: float) -> Any:
        """Return the value at a share of the way through the list or range, in [0, 1)."""
        if self.values:
            return self.values[int(share * len(self.values))]
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def points(self, num_points: int) -> list[Any]:
        """Return the values of a list, or this many of a range: both ends, and evenly spaced on its scale."""
        if self.values:
            return list(self.values)
        inside = [self.at(i / (num_points - 1)) for i in range(1, num_points - 1)]
        return [self.low, *inside, self.high]


Points = Callable[[Choice], Sequence[Any]]


def read_space(space: Mapping[str, Any]) -> tuple[Choice, ...]:
    """Return the choices of `study.space`, those with a condition last; refuse fields that can't be searched."""
    choices = [_read(field, written) for field, written in space.items()]
    free = {choice.field: choice for choice in choices if not choice.when}
    bound = {choice.field: choice for choice in choices if choice.when}
    for choice in bound.values():
        for field, values in choice.when.items():
            _check_condition(choice.field, field, values, free, bound)
    return (*free.values(), *bound.values())


def assignments(choices: Iterable[Choice], points: Points) -> Iterator[dict[str, Any]]:
    """Yield every combination of values once, without fields whose condition doesn't hold."""
    every = list(choices)
    free = [choice for choice in every if not choice.when]
    for first in itertools.product(*map(points, free)):
        chosen = {choice.field: value for choice, value in zip(free, first, strict=True)}
        bound = [choice for choice in every if choice.when and choice.is_open(chosen)]
        for second in itertools.product(*map(points, bound)):
            yield chosen | {choice.field: value for choice, value in zip(bound, second, strict=True)}


def combinations(
    choices: Iterable[Choice], is_wanted: Callable[[Choice], bool], points: Points
) -> Iterator[dict[str, Any]]:
    """Yield every combination of the wanted choices and of those that their conditions name."""
    every = list(choices)
    names = {name for choice in every if is_wanted(choice) for name in (choice.field, *choice.when)}
    return assignments([choice for choice in every if choice.field in names], points)


def as_parameter(value: Any) -> Any:
    """Return a field's value as its parameter has it: a list becomes JSON text, which Optuna can store."""
    return json.dumps(list(value)) if isinstance(value, (list, tuple)) else value


def _read(field: str, written: Any) -> Choice:
    _check_field(str(field))
    where = f"study.space: {field}"
    mapping = {"values": written} if isinstance(written, (list, tuple)) else written
    if not isinstance(mapping, Mapping) or not ("values" in mapping or {"low", "high"} <= set(mapping)):
        raise ConfigError(f"{where} is {listed([repr(written)])}; allowed: {_SHAPES}.")
    allowed = _LIST_KEYS if "values" in mapping else _RANGE_KEYS
    for key in mapping:
        if key not in allowed:
            raise ConfigError(f"{where} has {key!r} beside {', '.join(allowed & set(mapping))}; allowed: {_SHAPES}.")
    when = _read_condition(where, mapping.get("when", {}))
    if "values" not in mapping:
        return _read_range(field, mapping, when)
    values = mapping["values"]
    require(isinstance(values, (list, tuple)) and len(values) > 0, where, values, "a list of at least one value")
    plain = tuple(map(as_parameter, values))
    require_distinct(where, plain)
    return Choice(field=field, values=plain, when=when)


def _read_range(field: str, mapping: Mapping[str, Any], when: Mapping[str, tuple[Any, ...]]) -> Choice:
    where = f"study.space: {field}"
    low, high, log = mapping["low"], mapping["high"], mapping.get("log", False)
    if not field.startswith("matching."):
        raise ConfigError(
            f"{where} is a range, and every trial would need new teachers or a new prior. List its values instead."
        )
    if float not in _types(field):
        raise ConfigError(f"{where} is a range, but {field} can't be a fraction. List its values instead.")
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (low, high))
    require(
        numbers and math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log),
        where,
        {key: value for key, value in mapping.items() if key != "when"},
        "two numbers, low < high, and with log: true both above 0",
    )
    require(isinstance(log, bool), f"{where}: log", log, "true or false")
    return Choice(field=field, low=float(low), high=float(high), log=log, when=when)


def _read_condition(where: str, when: Any) -> dict[str, tuple[Any, ...]]:
    wanted = "fields of study.space, each with a list of its values"
    require(isinstance(when, Mapping), f"{where}: when", when, wanted)
    for values in when.values():
        require(isinstance(values, (list, tuple)) and len(values) > 0, f"{where}: when", when, wanted)
    return {field: tuple(map(as_parameter, values)) for field, values in when.items()}


def _check_condition(
    field: str, other: str, values: tuple[Any, ...], free: Mapping[str, Choice], bound: Mapping[str, Choice]
) -> None:
    where = f"study.space: {field}: when has {other!r}"
    if other in bound:
        raise ConfigError(f"{where}, which has a condition itself; name the field that decides about both.")
    if other not in free:
        known = nearest(other, free) if free else "it has no field without a condition."
        raise ConfigError(f"{where}, which study.space doesn't search; {known}")
    if not free[other].values:
        raise ConfigError(f"{where}, which is a range; name a field with a list of values.")
    for value in values:
        if value not in free[other].values:
            known = nearest(str(value), map(str, free[other].values))
            raise ConfigError(f"{where} at {value!r}, which isn't among its values; {known}")


def _check_field(field: str) -> None:
    """Refuse a field that is unknown or can't be searched."""
    section, _, name = field.partition(".")
    own = {one.name: one for one in fields(_SECTIONS[section])} if section in _SECTIONS else {}
    reason = _REASONS.get(field) or _REASONS.get(section)
    if not reason and name in own and own[name].metadata.get("place"):
        reason = _NO_EFFECT
    if reason:
        raise ConfigError(f"study.space has {field}, which can't be searched: {reason}.")
    if name not in own:
        every = [known for one in _SECTIONS for known in _searchable(one)]
        close = difflib.get_close_matches(field, every, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]!r}? " if close else ""
        known = _searchable(section) if own else [f"{one}.*" for one in _SECTIONS]
        raise ConfigError(f"study.space has {field!r}, which is not a known field; {guess}Known: {', '.join(known)}.")


def _searchable(section: str) -> list[str]:
    names = [f"{section}.{one.name}" for one in fields(_SECTIONS[section]) if not one.metadata.get("place")]
    return [name for name in names if name not in _REASONS]


def _types(field: str) -> tuple[Any, ...]:
    section, _, name = field.partition(".")
    hint = get_type_hints(_SECTIONS[section])[name]
    return hint, *get_args(hint)
