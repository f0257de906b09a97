"""A search that begins from earlier trials of the store, of the same data set or another.

    python -m dim_ray.tune --warm-start digits

The best configurations of every source are queued, and run first. Where earlier trials had the same data and the same
recipe, and differ in nothing but what is searched, their results are added to Optuna's study, too: the sampler begins
with what they showed. Those of other data say which configurations are good, but not how good they are here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import create_trial

from dim_ray.config import Config, DataConfig, StudyConfig, as_parameter, to_dict
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError, nearest
from dim_ray.store.analysis.pareto import AXES, is_pareto
from dim_ray.store.reader import Reader
from tuning.record import study_name
from tuning.search.objectives import open_study, row_values
from tuning.search.space import PARAMETERS, configure, open_names, search_space
from tuning.search.variants import SizeLimit

__all__ = ["WarmStart", "check_warm_start", "warm_start"]

_DONE = "warm_start"  # an attribute of Optuna's study
_ORIGIN = "warm_start_from"  # of its trials
_SAME = ("data", "networks", "pool", "generator", "prior", "matching", "evaluation")
_FINAL = {
    "images_per_class", "protocols", "num_seeds", "seed", "preset", "quirks", "labels", "soft_label_temperature",
    "num_test_points",
}  # fmt: skip
"""Of the section evaluation: what the students that a search validates with don't depend on, or on chance alone."""
_SAME_SELECTION = ("selection_images_per_class", "selection_seeds")
_ENDED = ("completed", "stopped", "diverged")


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a search began from."""

    num_queued: int
    """Configurations that are tried first."""
    num_known: int
    """Earlier trials whose results the sampler knows."""


def check_warm_start(config: Config, dataset: Dataset) -> None:
    """Checks that there are trials to begin from.

    Raises:
        ConfigError: A name is neither that of another study of the storage, nor that of a data set of one.
    """
    if not config.study.warm_start:
        return
    rows = _other_trials(config, study_name(config, dataset))
    known = {*rows["study"], *rows["dataset"]}
    for name in config.study.warm_start:
        if name not in known:
            there = nearest(name, known) if known else "there are no trials of other studies."
            raise ConfigError(
                f"study.warm_start has {name!r}, which is no other study of {config.storage.root}, nor the data set of "
                f"one; {there}"
            )


def warm_start(
    storage: BaseStorage, name: str, config: Config, *, is_new: bool, limit: SizeLimit | None = None
) -> WarmStart | None:
    """Puts earlier trials into Optuna's study, unless they are there.

    Args:
        storage: Optuna's storage.
        name: The study's.
        config: Names the sources, and has the space.
        is_new: Whether no trial is finished; a study whose journal was lost isn't, and has tried them.
        limit: Of the generators' size; what is beyond it isn't tried.

    Returns:
        What was put there, or None.
    """
    study = open_study(storage, name, config)
    if not config.study.warm_start or _DONE in study.user_attrs:
        return None
    rows = _other_trials(config, name)
    names = set(config.study.warm_start)
    rows = rows[rows["study"].isin(names) | rows["dataset"].isin(names)]
    rows = rows.assign(is_pareto=_are_pareto(rows, config.study.objectives))
    space = search_space(config.study)
    translated = [row | {"parameters": _translate(row, config)} for row in rows.to_dict("records")]
    known = [row for row in translated if _fits(row["parameters"], config.study)]
    same = [(row, row_values(config.study, row)) for row in known if _is_comparable(row, config)]
    same = [(row, values) for row, values in same if values is not None]
    for row, values in same:
        study.add_trial(
            create_trial(
                params=row["parameters"],
                distributions={name: space[name] for name in row["parameters"]},
                values=values,
                user_attrs={_ORIGIN: f"{row['study']} {row['number']}"},
            )
        )
    small = [row for row in known if limit is None or limit.holds(configure(config, row["parameters"]).generator)]
    queued = _best(small, config.study.warm_start_trials) if is_new else []
    for parameters in queued:
        study.enqueue_trial(parameters)
    study.set_user_attr(_DONE, True)
    return WarmStart(num_queued=len(queued), num_known=len(same))


def _other_trials(config: Config, own: str) -> pd.DataFrame:
    """Returns rows of other studies' trials that came to an end, with their data set and their parameters."""
    rows = Reader(config.storage.root).trials()
    rows = rows[(rows["study"] != own) & rows["state"].isin(_ENDED) & rows["objective"].notna()]
    configs = [json.loads(text) for text in rows["config_json"]]
    return rows.assign(
        config=pd.Series(configs, index=rows.index, dtype=object),
        dataset=pd.Series([DataConfig(**c["data"]).label for c in configs], index=rows.index, dtype=object),
        parameters=pd.Series([json.loads(text) for text in rows["params_json"]], index=rows.index, dtype=object),
    )


def _are_pareto(rows: pd.DataFrame, objectives: Sequence[str]) -> pd.Series[bool]:
    """Returns which trials completed and no other one of their study beats."""
    completed = rows[rows["state"] == "completed"].dropna(subset=[AXES[name].column for name in objectives])
    found = pd.Series(False, index=rows.index)
    for _, own in completed.groupby("study"):
        found[own.index] = is_pareto(own, objectives)
    return found


def _translate(row: Mapping[Any, Any], config: Config) -> dict[str, Any]:
    """Returns an earlier trial's parameters in this study's space; a field that it didn't search has its one value."""
    study, theirs = config.study, row["parameters"]
    chosen = {name: theirs[name] for name in (*PARAMETERS, "seed") if name in theirs and name in search_space(study)}
    for choice in study.choices:
        if choice.is_open(chosen):
            section, _, name = choice.field.partition(".")
            chosen[choice.field] = as_parameter(row["config"].get(section, {}).get(name))
    return chosen


def _fits(parameters: Mapping[str, Any], study: StudyConfig) -> bool:
    space = search_space(study)
    return all(name in parameters and _holds(space[name], parameters[name]) for name in open_names(study, parameters))


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution)
    return value is not None and bool(distribution.low <= value <= distribution.high)


def _is_comparable(row: Mapping[Any, Any], config: Config) -> bool:
    """Whether a trial was measured as one of this study is."""
    ours, theirs = to_dict(configure(config, row["parameters"])), row["config"]
    for section in _SAME:
        free = {field.name for field in fields(getattr(config, section)) if field.metadata.get("place")}
        free |= _FINAL if section == "evaluation" else set()
        if any(theirs[section].get(name) != value for name, value in ours[section].items() if name not in free):
            return False
    chosen = {name: theirs["study"].get(name) for name in _SAME_SELECTION}
    if isinstance(ipc := chosen["selection_images_per_class"], int):  # as rows had it that are older
        chosen["selection_images_per_class"] = [ipc]
    return all(chosen[name] == ours["study"][name] for name in _SAME_SELECTION)


def _best(rows: list[dict[Any, Any]], num_trials: int) -> list[dict[str, Any]]:
    """Returns the best configurations, each once, in turn of each source: accuracies of two can't be compared.

    Those that no other one beats in all objectives come first; with one objective that is its best.
    """
    studies: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["state"] != "completed", not row["is_pareto"], -row["objective"])):
        studies.setdefault(row["study"], []).append(row["parameters"])
    turns = itertools.zip_longest(*(studies[name] for name in sorted(studies)))
    chosen: list[dict[str, Any]] = []
    for parameters in itertools.chain.from_iterable(turns):
        if parameters is not None and parameters not in chosen:
            chosen.append(parameters)
    return chosen[:num_trials]
