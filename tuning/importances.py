"""Importance of each parameter of a search, by Optuna's evaluators.

table = importances(parameters, objective)
table[["parameter", "fanova", "ped_anova"]]
"""

from __future__ import annotations

from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.trial import create_trial

__all__ = ["FEWEST_TRIALS", "MOST_TRIALS", "importances"]

FEWEST_TRIALS = 4
"""With fewer there is nothing to compare."""
MOST_TRIALS = 200
"""More are sampled at random: fANOVA's time grows with the square."""

_LOGARITHMIC_FROM = 10.0  # largest value over smallest
_TREES = 16  # Optuna's 64 take four times as long and change a share by a few points
_SEED = 0


def importances(parameters: pd.DataFrame, objective: pd.Series[Any]) -> pd.DataFrame:
    """Return the share of each parameter, the largest first.

    Args:
        parameters: One row per trial, one column per parameter. A parameter that some trials lack, because its
            condition didn't hold, has no share: the evaluators compare what all trials have.
        objective: Values to explain, by the same index.

    Returns:
        One row per parameter: `parameter`, `fanova` (share of the variance of a random forest's predictions over the
        whole space; Hutter et al., ICML 2014) and `ped_anova` (what separates the best tenth from the others; Watanabe
        et al., IJCAI 2023), each in [0, 1] with sum 1. No rows for fewer than `FEWEST_TRIALS`, or equal, trials.
    """
    parameters = parameters.dropna(axis=1)
    rows = parameters.assign(_objective=objective).dropna()
    names = [name for name in parameters.columns if rows[name].astype(str).nunique() > 1]
    if len(rows) < FEWEST_TRIALS or not names or rows["_objective"].nunique() < 2:
        return pd.DataFrame(columns=["parameter", "fanova", "ped_anova"])
    if len(rows) > MOST_TRIALS:
        rows = rows.sample(MOST_TRIALS, random_state=_SEED)
    space = {str(name): _distribution(rows[name]) for name in names}
    trials = [
        create_trial(
            params={name: _value(row[name], kind) for name, kind in space.items()},
            distributions=space,
            value=float(row["_objective"]),
        )
        for row in rows.to_dict("records")
    ]
    evaluators: dict[str, BaseImportanceEvaluator] = {
        "fanova": FanovaImportanceEvaluator(n_trees=_TREES, seed=_SEED),
        "ped_anova": PedAnovaImportanceEvaluator(),
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise a line for each study
    try:
        study = optuna.create_study(direction="maximize")
        study.add_trials(trials)
        shares = {name: get_param_importances(study, evaluator=how) for name, how in evaluators.items()}
    finally:
        optuna.logging.set_verbosity(verbosity)
    table = pd.DataFrame({"parameter": list(space), **{n: [s[p] for p in space] for n, s in shares.items()}})
    return table.sort_values("fanova", ascending=False, ignore_index=True)


def _distribution(values: pd.Series[Any]) -> BaseDistribution:
    """Return a range for real numbers, and a list of choices for other values."""
    if not pd.api.types.is_float_dtype(values):
        return CategoricalDistribution(sorted({_choice(value) for value in values}, key=str))
    low, high = float(values.min()), float(values.max())
    return FloatDistribution(low, high, log=low > 0 and high / low >= _LOGARITHMIC_FROM)


def _value(value: Any, kind: BaseDistribution) -> Any:
    return float(value) if isinstance(kind, FloatDistribution) else _choice(value)


def _choice(value: Any) -> bool | int | str:
    """Return a value as Optuna takes it."""
    return value.item() if hasattr(value, "item") else value if isinstance(value, bool | int | str) else str(value)
