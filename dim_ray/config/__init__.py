"""The configuration of a run: frozen, checked when it is made, with a fingerprint.

    config = Config(data=DataConfig(dataset="mnist"), generator=GeneratorConfig(capacity=64))
    fingerprint(config.pool)

The defaults are the paper's (arXiv 2303.04707) where it names a value. Small studies are files that override
them: `python -m dim_ray.tune` runs tuning/studies/digits.yaml. Fields marked `place` say where or how fast a run
happens, don't change its results, and aren't part of a fingerprint.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dim_ray.config.architectures import ARCHITECTURES, NUM_GROUPS, Architecture, Norm, check_architecture
from dim_ray.config.augmentation import DSA_OPERATIONS
from dim_ray.config.checks import NormalisationKind, Precision, require
from dim_ray.config.data import DATASETS, IMAGE_SIZES, DataConfig
from dim_ray.config.evaluation import PROTOCOLS, WEIGHTS, EvaluationConfig, Protocol, Weights
from dim_ray.config.fingerprints import fingerprint, to_dict
from dim_ray.config.networks import GeneratorConfig, NetworksConfig
from dim_ray.config.presets import NO_QUIRKS, PRESET_QUIRKS, PRESETS, QUIRKS, Quirk, join_quirks
from dim_ray.config.space import Choice, as_parameter, assignments, combinations
from dim_ray.config.study import OBJECTIVES, StorageConfig, StudyConfig
from dim_ray.config.training import (
    HealthConfig,
    MatchingConfig,
    MatchingKind,
    PoolConfig,
    PriorConfig,
    SnapshotSpacing,
)
from dim_ray.errors import ConfigError

__all__ = [
    "ARCHITECTURES",
    "DATASETS",
    "DSA_OPERATIONS",
    "IMAGE_SIZES",
    "NO_QUIRKS",
    "NUM_GROUPS",
    "OBJECTIVES",
    "PRESETS",
    "PRESET_QUIRKS",
    "PROTOCOLS",
    "QUIRKS",
    "WEIGHTS",
    "Architecture",
    "Choice",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "GeneratorConfig",
    "HealthConfig",
    "MatchingConfig",
    "MatchingKind",
    "NetworksConfig",
    "Norm",
    "NormalisationKind",
    "PoolConfig",
    "Precision",
    "PriorConfig",
    "Protocol",
    "Quirk",
    "SnapshotSpacing",
    "StorageConfig",
    "StudyConfig",
    "Weights",
    "as_parameter",
    "assignments",
    "check_architecture",
    "combinations",
    "fingerprint",
    "join_quirks",
    "to_dict",
]

_CHECKED_TOGETHER = {"matching.kind", "matching.weight", "matching.adversarial_weight"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of one run."""

    data: DataConfig = field(default_factory=DataConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        workers = self.study.workers_per_trial
        for where, batch in (("prior", self.prior.batch_size), ("matching", self.matching.batch_size)):
            require(
                batch % workers == 0 and batch // workers > 1,
                f"{where}.batch_size",
                batch,
                f"a multiple of study.workers_per_trial ({workers}), which share the batch equally, and at least "
                f"{2 * workers}: the generator's BatchNorm needs two images on each worker",
            )
        self._check_space()

    def with_fields(self, values: Mapping[str, Any]) -> Config:
        """Return the configuration with other values of some fields, such as pool.size.

        A list may also be JSON text, as from `as_parameter`.
        """
        sections: dict[str, dict[str, Any]] = {}
        for where, value in values.items():
            section, _, name = where.partition(".")
            if isinstance(getattr(getattr(self, section), name), tuple):
                value = tuple(json.loads(value) if isinstance(value, str) else value)
            sections.setdefault(section, {})[name] = value
        return replace(self, **{section: replace(getattr(self, section), **own) for section, own in sections.items()})

    def with_seed(self, seed: int) -> Config:
        """Return the configuration with every seed but that of the data split set to `seed`."""
        return replace(
            self,
            **{
                section: replace(getattr(self, section), seed=seed)
                for section in ("pool", "prior", "matching", "evaluation", "study")
            },
        )

    def _check_space(self) -> None:
        """Refuse a value in `study.space` that its field refuses."""
        if not self.study.space:
            return
        plain = replace(self, study=StudyConfig(space={}, workers_per_trial=self.study.workers_per_trial))
        choices = self.study.choices
        joint = combinations(choices, lambda choice: choice.field in _CHECKED_TOGETHER, _bounds)
        others = [choice for choice in choices if choice.field not in _CHECKED_TOGETHER]
        single = ({choice.field: value} for choice in others for value in _bounds(choice))
        for values in itertools.chain(joint, single):
            try:
                plain.with_fields(values)
            except ConfigError as error:
                raise ConfigError(f"study.space: {error}") from error


def _bounds(choice: Choice) -> Sequence[Any]:
    return choice.values or (choice.low, choice.high)
