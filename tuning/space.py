"""The search space: what Optuna may choose, and the configuration that a choice stands for.

space = search_space(config.study)
trial_config = configure(config, {"pool_size": 4, "capacity": 32, ...})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dim_ray.config import Config, StudyConfig
from dim_ray.core.data import Dataset
from dim_ray.errors import ConfigError

__all__ = ["PARAMETERS", "check_search", "configure", "grid", "search_space"]

PARAMETERS = ("pool_size", "capacity", "matching_weight", "adversarial_weight")
"""Of every trial; `seed` is one more where the study has several."""


def search_space(study: StudyConfig) -> dict[str, BaseDistribution]:
    """Returns Optuna's distributions by parameter: lists of values, and weights on logarithmic scales."""
    seeds = {"seed": CategoricalDistribution(study.seeds)} if study.seeds else {}
    return {
        "pool_size": CategoricalDistribution(study.pool_sizes),
        "capacity": CategoricalDistribution(study.capacities),
        "matching_weight": FloatDistribution(*study.matching_weights, log=True),
        "adversarial_weight": FloatDistribution(*study.adversarial_weights, log=True),
        **seeds,
    }


def grid(study: StudyConfig) -> dict[str, list[Any]]:
    """Returns the values of each parameter in a grid, both ends of a weight's range included."""
    return {name: _values(kind, study.grid_points) for name, kind in search_space(study).items()}


def configure(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Returns the configuration of one trial."""
    chosen = {name: parameters[name] for name in PARAMETERS}
    return config.with_trial(**chosen, seed=parameters["seed"] if config.study.seeds else None)


def check_search(config: Config, dataset: Dataset) -> None:
    """Checks that trials differ where the search has them differ.

    Raises:
        ConfigError: There is no epoch to match in, or several pool sizes for an online pool, which has none.
    """
    if config.matching.epochs == 0:
        raise ConfigError(
            "matching.epochs is 0, which keeps the prior as it is: trials would be the same. Set --matching.epochs "
            "to 1 or more, or measure the prior with python -m dim_ray.distill."
        )
    sizes = config.study.pool_sizes
    if config.pool.kind == "online" and len(sizes) > 1:
        raise ConfigError(
            f"study.pool_sizes is {' '.join(map(str, sizes))}, but pool.kind is 'online', whose networks are trained "
            "anew every epoch: there is no pool to choose the size of, and trials that differ in it alone would be the "
            "same. Set --study.pool_sizes 1, or --pool.kind stored."
        )


def _values(distribution: BaseDistribution, num_points: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(dict.fromkeys(distribution.choices))
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    if low == high:
        return [low]
    inside = [low * (high / low) ** (i / (num_points - 1)) for i in range(1, num_points - 1)]
    return [low, *inside, high]
