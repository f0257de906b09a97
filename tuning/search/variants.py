"""What a search may ask for beside its trials: teachers, priors, and generators of a bounded size.

limit = SizeLimit(config, dataset)
network_variants(config, limit)  # configurations whose teachers and priors some trial may need
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from dim_ray.config import Choice, Config, GeneratorConfig, assignments
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError
from dim_ray.pipeline.generators import generator_bytes

__all__ = ["SizeLimit", "example_trials", "network_variants"]

_CAPACITY = "generator.capacity"
_NUM_EXAMPLES = 8  # of a space with further fields: enough for an average
_NUM_POINTS = 3


class SizeLimit:
    """Which generators may be searched, by the size of their file, which is known before anything is trained.

    Args:
        config: Of the study.
        dataset: Decides the size of the images, and with it that of the generator.
    """

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self._config = config
        self._dataset = dataset
        self._sizes: dict[GeneratorConfig, int] = {}

    def holds(self, generator: GeneratorConfig) -> bool:
        """Whether a generator is small enough."""
        limit = self._config.study.max_generator_bytes
        return limit is None or self._size(generator) <= limit

    def choices(self) -> list[dict[str, Any]]:
        """Returns the parameters of each generator that is small enough, for a trial whose own is too large."""
        return [
            {"capacity": fields.pop(_CAPACITY)} | fields
            for fields in self._fields()
            if self.holds(self._config.with_fields(fields).generator)
        ]

    def describe(self) -> str | None:
        """Says which generators are left out; None where all fit.

        Raises:
            ConfigError: None fits.
        """
        limit = self._config.study.max_generator_bytes
        if limit is None:
            return None
        every = dict.fromkeys(self._config.with_fields(fields).generator for fields in self._fields())
        large = [generator for generator in every if not self.holds(generator)]
        sizes = ", ".join(f"{self._size(one):,} (capacity {one.capacity})" for one in every)
        if len(large) == len(every):
            raise ConfigError(
                f"study.max_generator_bytes is {limit}, but the generators of the space have {sizes} bytes: set "
                "--study.max_generator_bytes to one of these or more, or add smaller --study.capacities."
            )
        if not large:
            return None
        return (
            f"{len(large)} of the {len(every)} generators of the space are larger than study.max_generator_bytes, "
            f"{limit:,}, and left out; bytes: {sizes}"
        )

    def _fields(self) -> Iterator[dict[str, Any]]:
        return _combinations(self._config, [c for c in self._config.study.choices if c.field.startswith("generator.")])

    def _size(self, generator: GeneratorConfig) -> int:
        if generator not in self._sizes:
            self._sizes[generator] = generator_bytes(generator, self._dataset)
        return self._sizes[generator]


def network_variants(config: Config, limit: SizeLimit) -> list[Config]:
    """Returns configurations with the largest pool that have the teachers and priors of all trials between them.

    Args:
        config: Of the study.
        limit: Leaves out what is too large.
    """
    largest: dict[str, Any] = {"pool.size": max(config.study.pool_sizes)}
    wanted = [choice for choice in config.study.choices if choice.makes_networks]
    variants = (config.with_fields(largest | fields) for fields in _combinations(config, wanted))
    return [variant for variant in variants if limit.holds(variant.generator)]


def example_trials(config: Config, limit: SizeLimit) -> list[Config]:
    """Returns configurations of trials, for an average of what trials cost: each capacity, and draws of the fields."""
    rng = random.Random(0)
    capacities, choices = list(dict.fromkeys(config.study.capacities)), config.study.choices
    examples = []
    for index in range(max(len(capacities), _NUM_EXAMPLES) if choices else len(capacities)):
        fields: dict[str, Any] = {_CAPACITY: capacities[index % len(capacities)]}
        for choice in choices:
            if choice.is_open(fields):
                fields[choice.field] = rng.choice(choice.points(_NUM_POINTS))
        examples.append(config.with_fields(fields))
    return [one for one in examples if limit.holds(one.generator)] or network_variants(config, limit)


def _combinations(config: Config, wanted: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    """Yields every combination of the capacity and of choices, with the choices that decide about these."""
    names = {choice.field for choice in wanted} | {field for choice in wanted for field in choice.when}
    choices = [choice for choice in config.study.choices if choice.field in names]
    for capacity in dict.fromkeys(config.study.capacities):
        for fields in assignments(choices, lambda choice: choice.values):
            yield {_CAPACITY: capacity} | fields
