"""A search that begins from earlier trials of the store.

    python -m dim_ray.tune --warm-start digits

The best configurations of each source are queued and run first. Trials with the same data and recipe, differing only in
searched fields, are also added to Optuna's study with their results, so that the sampler knows them. On other data a
configuration's result says nothing about its accuracy here.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from optuna.storages import BaseStorage

from dim_ray.config import Config, as_parameter, to_dict
from dim_ray.config.data import stored_label
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError, nearest
from dim_ray.store.analysis.pareto import AXES, is_pareto
from dim_ray.store.reader import Reader
from tuning.record import study_name
from tuning.search.objectives import open_study, row_values
from tuning.search.settling import DRAWN_BY, WARM_START, told_trial
from tuning.search.space import configure, encoded
from tuning.search.variants import SizeLimit

__all__ = ["WarmStart", "check_warm_start", "warm_start"]

_DONE = "warm_start"  # an attribute of Optuna's study
_ORIGIN = "warm_start_from"  # of its trials
_SAME = ("data", "networks", "pool", "generator", "prior", "matching", "evaluation")
_FINAL = {
    "images_per_class", "protocols", "num_seeds", "seed", "preset", "quirks", "labels", "soft_label_temperature",
    "num_test_points",
}  # fmt: skip
"""Fields of the section evaluation that don't affect the students of a search, apart from chance."""
_SAME_SELECTION = ("selection_images_per_class", "selection_seeds")
_ENDED = ("completed", "stopped", "diverged")


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a search began from: configurations to try first, and earlier results that the sampler knows."""

    num_queued: int
    num_known: int


def check_warm_start(config: Config, dataset: Dataset) -> None:
    """Raise a ConfigError if a source is neither another study of the storage, nor a dataset of one."""
    if not config.study.warm_start:
        return
    rows = _other_trials(config, study_name(config, dataset))
    known = {*rows["study"], *rows["dataset"]}
    for name in config.study.warm_start:
        if name not in known:
            there = nearest(name, known) if known else "there are no trials of other studies."
            raise ConfigError(
                f"study.warm_start has {name!r}, which is neither another study of {config.storage.root} nor a dataset "
                f"of one; {there}"
            )


def warm_start(
    storage: BaseStorage, name: str, config: Config, *, is_new: bool, limit: SizeLimit | None = None
) -> WarmStart | None:
    """Add earlier trials to Optuna's study, once, and return what was added.

    If a trial is finished, nothing is queued: a study that lost its journal has tried them. Generators beyond the limit
    aren't queued either.
    """
    study = open_study(storage, name, config)
    if not config.study.warm_start or _DONE in study.user_attrs:
        return None
    rows = _other_trials(config, name)
    names = set(config.study.warm_start)
    rows = rows[rows["study"].isin(names) | rows["dataset"].isin(names)]
    rows = rows.assign(is_pareto=_are_pareto(rows, config.study.objectives))
    translated = [row | {"parameters": _translate(row, config)} for row in rows.to_dict("records")]
    known = [row for row in translated if row["parameters"] is not None]
    same = [(row, row_values(config.study, row)) for row in known if _is_comparable(row, config)]
    measured = [(row, values) for row, values in same if values is not None]
    for row, values in measured:
        study.add_trial(
            told_trial(
                config.study,
                row["parameters"],
                values,
                int(row["epoch"]) if row["state"] == "stopped" else None,
                attributes={_ORIGIN: f"{row['study']} {row['number']}", DRAWN_BY: WARM_START},
            )
        )
    small = [row for row in known if limit is None or limit.holds(configure(config, row["parameters"]).generator)]
    queued = _best(small, config.study.warm_start_trials) if is_new else []
    for parameters in queued:
        study.enqueue_trial(encoded(config.study, parameters), user_attrs={DRAWN_BY: WARM_START})
    study.set_user_attr(_DONE, True)
    return WarmStart(num_queued=len(queued), num_known=len(measured))


def _other_trials(config: Config, own: str) -> pd.DataFrame:
    """Return rows of other studies' ended trials, with their configuration and dataset."""
    rows = Reader(config.storage.root).trials()
    rows = rows[(rows["study"] != own) & rows["state"].isin(_ENDED) & rows["objective"].notna()]
    configs = [json.loads(text) for text in rows["config_json"]]
    return rows.assign(
        config=pd.Series(configs, index=rows.index, dtype=object),
        dataset=rows["config_json"].map(stored_label),
    )


def _are_pareto(rows: pd.DataFrame, objectives: Sequence[str]) -> pd.Series[bool]:
    """Return which trials completed and aren't beaten by another of their study."""
    completed = rows[rows["state"] == "completed"].dropna(subset=[AXES[name].column for name in objectives])
    found = pd.Series(False, index=rows.index)
    for _, own in completed.groupby("study"):
        found[own.index] = is_pareto(own, objectives)
    return found


def _translate(row: Mapping[Any, Any], config: Config) -> dict[str, Any] | None:
    """Return an earlier trial's values of the fields of this study's space; None if one isn't in it."""
    chosen: dict[str, Any] = {}
    for choice in config.study.choices:
        if choice.is_open(chosen):
            section, _, name = choice.field.partition(".")
            value = as_parameter(row["config"].get(section, {}).get(name))
            if not choice.holds(value):
                return None
            chosen[choice.field] = value
    return chosen


def _is_comparable(row: Mapping[Any, Any], config: Config) -> bool:
    """Return whether a trial was measured like those of this study."""
    ours, theirs = to_dict(configure(config, row["parameters"])), row["config"]
    for section in _SAME:
        free = {field.name for field in fields(getattr(config, section)) if field.metadata.get("place")}
        free |= _FINAL if section == "evaluation" else set()
        if any(theirs[section].get(name) != value for name, value in ours[section].items() if name not in free):
            return False
    return all(theirs["study"].get(name) == ours["study"][name] for name in _SAME_SELECTION)


def _best(rows: list[dict[Any, Any]], num_trials: int) -> list[dict[str, Any]]:
    """Return the best configurations, each once, taking turns between studies: their accuracies can't be compared.

    The Pareto set comes first; with one objective that is the best trial.
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
