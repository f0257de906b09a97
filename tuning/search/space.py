"""The search space: what Optuna may choose, and the configuration that a choice stands for.

space = search_space(config.study)
trial_config = configure(config, {"pool_size": 4, "capacity": 32, ..., "matching.kind": "features"})

The four parameters that every trial has, and the seed, come first; then the fields of `study.space` by their names, of
which one whose condition doesn't hold is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dim_ray.config import Choice, Config, StudyConfig, assignments
from dim_ray.core.data.checks import check_training
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError
from dim_ray.pipeline.soft_labels import check_labels
from tuning.search.variants import SizeLimit, network_variants

__all__ = [
    "PARAMETERS",
    "Space",
    "asked_space",
    "check_search",
    "configure",
    "further",
    "grid",
    "open_names",
    "search_space",
]

PARAMETERS = ("pool_size", "capacity", "matching_weight", "adversarial_weight")
"""Of every trial; `seed` is one more where the study has several, and further ones are named as fields are."""

Space = dict[str, BaseDistribution] | Callable[[Trial], None]
"""As Ray Tune's OptunaSearch takes it: distributions, or a function that asks a trial for its parameters."""


def search_space(study: StudyConfig) -> dict[str, BaseDistribution]:
    """Returns Optuna's distributions by parameter, also of those that a trial may be without."""
    return {choice.field: _distribution(choice) for choice in _choices(study)}


def asked_space(study: StudyConfig) -> Space:
    """Returns the space as it's asked for: where nothing has a condition, all at once."""
    space = search_space(study)
    choices = {choice.field: choice for choice in study.choices}
    if not any(choice.when for choice in choices.values()):
        return space

    def ask(trial: Trial) -> None:
        chosen: dict[str, Any] = {}
        for name, kind in space.items():
            if name not in choices or choices[name].is_open(chosen):
                chosen[name] = _ask(trial, name, kind)

    return ask


def open_names(study: StudyConfig, parameters: Mapping[str, Any]) -> list[str]:
    """Returns the parameters that a trial has which was given these ones."""
    closed = [choice.field for choice in study.choices if not choice.is_open(parameters)]
    return [name for name in search_space(study) if name not in closed]


def grid(study: StudyConfig) -> dict[str, list[Any]]:
    """Returns the values of each parameter in a grid, both ends of a range included."""
    return {choice.field: choice.points(study.grid_points) for choice in _choices(study)}


def configure(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Returns the configuration of one trial."""
    chosen = {name: parameters[name] for name in PARAMETERS}
    trial = config.with_trial(**chosen, seed=parameters["seed"] if config.study.seeds else None)
    names = [choice.field for choice in config.study.choices if choice.is_open(parameters)]
    return trial.with_fields({name: parameters[name] for name in names}) if names else trial


def further(parameters: Mapping[str, Any]) -> str:
    """Returns the parameters that are fields of `study.space`, for the end of a sentence."""
    named = [(name, value) for name, value in parameters.items() if "." in name]
    return "".join(f", {name} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in named)


def check_search(config: Config, dataset: Dataset) -> None:
    """Checks that trials differ where the search has them differ, and that each can be run on the data.

    Raises:
        ConfigError: There is no epoch to match in, or several pool sizes for an online pool, which has none; a value of
            `study.space` doesn't fit the data; no generator is as small as asked for, or not all of a grid's; or
            students are to have soft labels, and some trial would have no teachers to give them.
    """
    if config.matching.epochs == 0:
        raise ConfigError(
            "matching.epochs is 0, which keeps the prior as it is: trials would be the same. Set --matching.epochs "
            "to 1 or more, or measure the prior with python -m dim_ray.distill."
        )
    sizes, choices = config.study.pool_sizes, config.study.choices
    kinds = next((choice.values for choice in choices if choice.field == "pool.kind"), (config.pool.kind,))
    if set(kinds) == {"online"} and len(sizes) > 1:
        raise ConfigError(
            f"study.pool_sizes is {' '.join(map(str, sizes))}, but pool.kind is 'online', whose networks are trained "
            "anew every epoch: there is no pool to choose the size of, and trials that differ in it alone would be the "
            "same. Set --study.pool_sizes 1, or --pool.kind stored."
        )
    matched = [choice for choice in choices if choice.field in ("matching.kind", "pool.kind")]
    for fields in assignments(matched, lambda choice: choice.values):
        check_labels(config.with_fields(fields), dataset)
    limit = SizeLimit(config, dataset)
    left_out = limit.describe()
    if left_out and config.study.sampler == "grid":
        raise ConfigError(
            f"{left_out}. A grid runs through all of its combinations: leave those capacities out of study.capacities, "
            "or choose another --study.sampler."
        )
    # Networks are judged with all that is chosen for them together, other values each alone.
    single = [{choice.field: value} for choice in choices if not choice.makes_networks for value in choice.values]
    try:
        for trial in [*map(config.with_fields, single), *(network_variants(config, limit) if choices else [])]:
            check_training(trial, dataset)
    except ConfigError as error:
        raise ConfigError(f"study.space: {error}") from error


def _choices(study: StudyConfig) -> list[Choice]:
    """Returns what is chosen for each parameter."""
    weights = {"matching_weight": study.matching_weights, "adversarial_weight": study.adversarial_weights}
    return [
        Choice(field="pool_size", values=study.pool_sizes),
        Choice(field="capacity", values=study.capacities),
        *(Choice(field=name, low=low, high=high, log=True) for name, (low, high) in weights.items()),
        *([Choice(field="seed", values=study.seeds)] if study.seeds else []),
        *study.choices,
    ]


def _distribution(choice: Choice) -> BaseDistribution:
    if choice.values:
        return CategoricalDistribution(choice.values)
    return FloatDistribution(choice.low, choice.high, log=choice.log)


def _ask(trial: Trial, name: str, kind: BaseDistribution) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(name, kind.choices)
    assert isinstance(kind, FloatDistribution)
    return trial.suggest_float(name, kind.low, kind.high, log=kind.log)
