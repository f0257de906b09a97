"""What trials may ask for: teachers, priors, and generators within a size limit.

limit = SizeLimit(config, dataset)
network_variants(config, limit)  # configurations with the teachers and priors of all trials
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from dim_ray.config import Choice, Config, GeneratorConfig, combinations
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError, listed
from dim_ray.pipeline.generators import generator_bytes

__all__ = ["SizeLimit", "example_trials", "network_variants"]

_NUM_EXAMPLES = 8  # enough for an average
_NUM_POINTS = 3


class SizeLimit:
    """The limit on the size of generators' files, which follows from the images' size before any training."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self._config = config
        self._dataset = dataset
        self._sizes: dict[GeneratorConfig, int] = {}

    def holds(self, generator: GeneratorConfig) -> bool:
        """Return whether a generator is within the limit."""
        return self.excess(generator) <= 0

    def excess(self, generator: GeneratorConfig) -> int:
        """Return the bytes by which a generator is beyond the limit; 0 or less if it isn't."""
        limit = self._config.study.max_generator_bytes
        return 0 if limit is None else self._size(generator) - limit

    def choices(self) -> list[dict[str, Any]]:
        """Return the parameters that decide about generators, for each generator within the limit."""
        return [fields for fields in self._fields() if self.holds(self._config.with_fields(fields).generator)]

    def describe(self) -> str | None:
        """Return which generators are left out, as text, or None; raise a ConfigError if all of them are."""
        limit = self._config.study.max_generator_bytes
        if limit is None:
            return None
        every = dict.fromkeys(self._config.with_fields(fields).generator for fields in self._fields())
        large = [generator for generator in every if not self.holds(generator)]
        sizes = listed(f"{self._size(one):,} (capacity {one.capacity})" for one in every)
        if len(large) == len(every):
            raise ConfigError(
                f"study.max_generator_bytes is {limit}, but the generators of the space have {sizes} bytes: set "
                "--study.max_generator_bytes to one of these or more, or add a smaller generator.capacity to "
                "study.space."
            )
        if not large:
            return None
        return (
            f"{len(large)} of the {len(every)} generators of the space are larger than study.max_generator_bytes, "
            f"{limit:,}, and left out; bytes: {sizes}"
        )

    def _fields(self) -> Iterator[dict[str, Any]]:
        choices = self._config.study.choices
        return combinations(choices, lambda choice: choice.field.startswith("generator."), lambda choice: choice.values)

    def _size(self, generator: GeneratorConfig) -> int:
        if generator not in self._sizes:
            self._sizes[generator] = generator_bytes(generator, self._dataset)
        return self._sizes[generator]


def network_variants(config: Config, limit: SizeLimit) -> list[Config]:
    """Return configurations with the teachers and priors of all trials, without generators beyond the limit."""
    return [config.with_fields(fields) for fields in _network_fields(config, limit)]


def example_trials(config: Config, limit: SizeLimit) -> list[Config]:
    """Return configurations of trials whose average cost is about that of all trials."""
    rng = random.Random(0)
    networks = _network_fields(config, limit)
    rng.shuffle(networks)
    examples = []
    for index in range(_NUM_EXAMPLES):
        fields = dict(networks[index % len(networks)])
        for choice in config.study.choices:
            if choice.field not in fields and choice.is_open(fields):
                fields[choice.field] = rng.choice(choice.points(_NUM_POINTS))
        examples.append(config.with_fields(fields))
    return examples


def _network_fields(config: Config, limit: SizeLimit) -> list[dict[str, Any]]:
    """Return all combinations of the fields that decide about networks, within the limit."""
    choices = config.study.choices
    conditions = {name for choice in choices for name in choice.when}

    def values(choice: Choice) -> Sequence[Any]:
        # The largest pool has the teachers of the smaller ones.
        is_nested = choice.field == "pool.size" and choice.field not in conditions
        return (max(choice.values),) if is_nested else choice.values

    every = combinations(choices, lambda choice: choice.makes_networks, values)
    return [fields for fields in every if limit.holds(config.with_fields(fields).generator)]
