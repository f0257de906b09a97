"""The search space: what Optuna may choose, and the configuration that a choice stands for.

space = search_space(config.study)
trial_config = configure(config, {"pool_size": 4, "capacity": 32, ...})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dim_ray.config import Config, StudyConfig

__all__ = ["PARAMETERS", "configure", "search_space"]

PARAMETERS = ("pool_size", "capacity", "matching_weight", "adversarial_weight")


def search_space(study: StudyConfig) -> dict[str, BaseDistribution]:
    """Returns Optuna's distributions by parameter: capacity and pool size from lists, weights on logarithmic scales."""
    return {
        "pool_size": CategoricalDistribution(study.pool_sizes),
        "capacity": CategoricalDistribution(study.capacities),
        "matching_weight": FloatDistribution(*study.matching_weights, log=True),
        "adversarial_weight": FloatDistribution(*study.adversarial_weights, log=True),
    }


def configure(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Returns the configuration of one trial."""
    return config.with_trial(**{name: parameters[name] for name in PARAMETERS})
