"""The search space: what Optuna may choose, and the configuration of one trial.

    parameters = draw(study.ask(), config.study)       # {"pool.size": 4, "generator.capacity": 32, ...}
    trial_config = configure(config, parameters)

A parameter has its field's name. One whose condition doesn't hold is absent. For Optuna, a value of a list of numbers
is its position among them, from the smallest, so that samplers know their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dim_ray.config import Choice, Config, StudyConfig, combinations
from dim_ray.core.data.checks import check_training
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError
from dim_ray.pipeline.soft_labels import check_labels
from tuning.search.variants import SizeLimit, network_variants

__all__ = ["check_search", "configure", "decoded", "describe", "draw", "encoded", "open_names", "search_space"]


def search_space(study: StudyConfig) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions by parameter, conditional ones included."""
    return {choice.field: _distribution(choice) for choice in study.choices}


def draw(trial: Trial, study: StudyConfig) -> dict[str, Any]:
    """Ask a trial for its parameters, in the order of the space."""
    chosen: dict[str, Any] = {}
    for choice in study.choices:
        if not choice.is_open(chosen):
            continue
        if choice.is_ordered:
            chosen[choice.field] = sorted(choice.values)[trial.suggest_int(choice.field, 0, len(choice.values) - 1)]
        elif choice.values:
            chosen[choice.field] = trial.suggest_categorical(choice.field, choice.values)
        else:
            chosen[choice.field] = trial.suggest_float(choice.field, choice.low, choice.high, log=choice.log)
    return chosen


def encoded(study: StudyConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as Optuna has them."""
    ordered = {choice.field: sorted(choice.values) for choice in study.choices if choice.is_ordered}
    return {name: ordered[name].index(value) if name in ordered else value for name, value in parameters.items()}


def decoded(study: StudyConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of one of Optuna's trials as the configuration has them."""
    ordered = {choice.field: sorted(choice.values) for choice in study.choices if choice.is_ordered}
    return {name: ordered[name][value] if name in ordered else value for name, value in parameters.items()}


def open_names(study: StudyConfig, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of all parameters of a trial that has at least these ones."""
    return [choice.field for choice in study.choices if choice.is_open(parameters)]


def configure(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Return the configuration of one trial."""
    return config.with_fields({name: parameters[name] for name in open_names(config.study, parameters)})


def describe(parameters: Mapping[str, Any]) -> str:
    """Return a trial's parameters as text, such as "pool.size 4, matching.weight 0.0123"."""
    return ", ".join(
        f"{name} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in parameters.items()
    )


def check_search(config: Config, dataset: Dataset) -> None:
    """Check that trials differ, and that each of them can be run on the data.

    Raises:
        ConfigError: There is nothing to search, or no epoch to match in; several pool sizes are given for an online
            pool; a value of `study.space` doesn't fit the data; no generator is within the size limit, or not all of a
            grid; or some trial would have no teachers for soft labels.
    """
    study = config.study
    if config.matching.epochs == 0:
        raise ConfigError(
            "matching.epochs is 0, which keeps the prior as it is: all trials would be the same. Set --matching.epochs "
            "to 1 or more, or measure the prior with python -m dim_ray.distill."
        )
    if not study.space and study.num_trials > 1:
        raise ConfigError(
            f"study.space is empty, so all {study.num_trials} trials would be the same. Name fields to search in it, "
            "such as --study.space '{pool.size: [1, 2, 4]}', or set --num-trials 1."
        )
    values = {choice.field: choice.values for choice in study.choices}
    if set(values.get("pool.kind", (config.pool.kind,))) == {"online"} and len(values.get("pool.size", ())) > 1:
        raise ConfigError(
            f"study.space has {len(values['pool.size'])} values of pool.size, but pool.kind is 'online', which ignores "
            "it: trials that differ only in it would be the same. Leave pool.size out of study.space, or set "
            "--pool.kind stored."
        )
    for fields in combinations(
        study.choices, lambda choice: choice.field in ("matching.kind", "pool.kind"), lambda choice: choice.values
    ):
        check_labels(config.with_fields(fields), dataset)
    limit = SizeLimit(config, dataset)
    left_out = limit.describe()
    if left_out and study.sampler == "grid":
        raise ConfigError(
            f"{left_out}. A grid runs all of its combinations: leave the larger ones out of study.space, or choose "
            "another --study.sampler."
        )
    # What decides about networks is checked in combination, all other values one by one.
    single = [{choice.field: value} for choice in study.choices if not choice.makes_networks for value in choice.values]
    try:
        for trial in [*map(config.with_fields, single), *(network_variants(config, limit) if study.choices else [])]:
            check_training(trial, dataset)
    except ConfigError as error:
        raise ConfigError(f"study.space: {error}") from error


def _distribution(choice: Choice) -> BaseDistribution:
    if choice.is_ordered:
        return IntDistribution(0, len(choice.values) - 1)
    if choice.values:
        return CategoricalDistribution(choice.values)
    return FloatDistribution(choice.low, choice.high, log=choice.log)
