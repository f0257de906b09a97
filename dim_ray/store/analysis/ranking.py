"""DD-Ranking's scores: what a distilled set is worth apart from soft labels and augmentation.

    scores = ranking(Reader(root).evaluations(), dataset="digits", ipc=10)
    scores[["generator", "hlr", "ior", "lrs", "ars"]]

Source: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv 2505.13300. With accuracies in
[0, 1], means over seeds:

    HLR = real-hard - syn-hard                  hard label recovery: lower is better
    IOR = syn-any - rdm-any                     improvement over a random real subset of the same size
    LRS = s(w IOR - (1 - w) HLR)                label-robust score, w = 0.5
    ARS = s(g (syn-aug - rdm-aug) + (1 - g) (syn-naug - rdm-naug))      augmentation-robust score, g = 0.5
    s(x) = (e^x - e^-1) / (e - e^-1)

syn is the protocol `fixed` of a generator, and rdm is `real_fixed`; "any" is one recipe of students for both, "hard"
the same with hard labels, "naug" the same without augmentation. real-hard is `real_full` with hard labels. A score is
NaN if a row that it needs is missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dim_ray.config import NO_QUIRKS, EvaluationConfig
from dim_ray.errors import UsageError
from dim_ray.store.analysis.selection import CELL, summarise

__all__ = ["AUGMENTATION_WEIGHT", "LABEL_WEIGHT", "Missing", "ranking"]

LABEL_WEIGHT = 0.5
"""w, as on DD-Ranking's leaderboard."""
AUGMENTATION_WEIGHT = 0.5
"""g; both differences count the same."""

_MEASURES = (
    "syn_any", "rdm_any", "syn_hard", "real_hard", "syn_naug", "rdm_naug", "hlr", "ior", "lrs", "ars",
)  # fmt: skip
_NO_HELP = {"candidates": 1, "latent_steps": 0}  # which older recipes don't have


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Rows that a score needs and that don't exist."""

    protocol: str
    recipe: Mapping[str, Any]
    """Values as in `recipe_json`; for real_full only labels and quirks matter."""


def ranking(
    evaluations: pd.DataFrame,
    *,
    dataset: str,
    ipc: int,
    architecture: str | None = None,
    label_weight: float = LABEL_WEIGHT,
    augmentation_weight: float = AUGMENTATION_WEIGHT,
) -> pd.DataFrame:
    """Return the scores of every generator, best LRS first, by default of all students' architectures.

    Returns:
        One row per generator, architecture and recipe of students with the protocol `fixed`. Columns: those of
        `CELL`, `augmentation` and `n`; the accuracies `syn_any`, `rdm_any`, `syn_hard`, `real_hard`, `syn_naug` and
        `rdm_naug`, in [0, 1]; `hlr`, `ior`; `lrs` and `ars`, in [0, 1]; and `missing`, a tuple of `Missing`. A recipe
        without augmentation has no ARS.
    """
    for name, weight in (("label_weight", label_weight), ("augmentation_weight", augmentation_weight)):
        if not 0 <= weight <= 1:
            raise UsageError(f"{name} is {weight!r}; allowed: 0 to 1.")
    rows = evaluations[evaluations["dataset"] == dataset]
    if architecture is not None:
        rows = rows[rows["architecture"] == architecture]
    recipes = {
        row["budget_fingerprint"]: {**_NO_HELP, **json.loads(row["recipe_json"])} for row in rows.to_dict("records")
    }
    cells = summarise(rows).to_dict("records")
    sets = [cell for cell in cells if cell["ipc"] == ipc and cell["protocol"] in ("fixed", "real_fixed")]
    means = {_key(cell, recipes[cell["budget_fingerprint"]]): float(cell["mean"]) for cell in sets}
    whole = _longest(cells)

    weights = (label_weight, augmentation_weight)
    scores = [
        {**cell, **_score_cell(cell, recipes[cell["budget_fingerprint"]], means, whole, weights)}
        for cell in sets
        if cell["protocol"] == "fixed"
    ]
    return pd.DataFrame(scores, columns=[*CELL, "augmentation", "n", *_MEASURES, "missing"]).sort_values(
        ["lrs", "generator"], ascending=[False, True], ignore_index=True
    )


def _score_cell(
    cell: Mapping[Any, Any],
    recipe: Mapping[str, Any],
    means: Mapping[tuple[Any, ...], float],
    whole: Mapping[tuple[Any, ...], float],
    weights: tuple[float, float],
) -> dict[str, Any]:
    """Return the scores of one generator's cell, and the rows that they lack."""
    label_weight, augmentation_weight = weights
    random = {**cell, "protocol": "real_fixed", "generator": None}
    hard = {**recipe, "labels": "hard", "soft_label_temperature": EvaluationConfig().soft_label_temperature}
    needed = {"syn_any": (cell, recipe), "rdm_any": (random, recipe), "syn_hard": (cell, hard)}
    if recipe["augmentation"] != "none":
        bare = {**recipe, "augmentation": "none"}
        needed |= {"syn_naug": (cell, bare), "rdm_naug": (random, bare)}
    needed = {name: _asked(*wanted) for name, wanted in needed.items()}
    found = dict.fromkeys(_MEASURES, math.nan)
    found |= {name: means.get(_key(*wanted), math.nan) for name, wanted in needed.items()}
    missing = [
        Missing(protocol=wanted["protocol"], recipe=how)
        for name, (wanted, how) in needed.items()
        if math.isnan(found[name])
    ]
    place = (cell["data_fingerprint"], cell["architecture"])
    if place in whole:
        found["real_hard"] = whole[place]
    else:
        missing.append(Missing(protocol="real_full", recipe={**hard, "quirks": []}))
    found["hlr"] = found["real_hard"] - found["syn_hard"]
    found["ior"] = found["syn_any"] - found["rdm_any"]
    without = found["syn_naug"] - found["rdm_naug"]
    found["lrs"] = _score(label_weight * found["ior"] - (1 - label_weight) * found["hlr"])
    found["ars"] = _score(augmentation_weight * found["ior"] + (1 - augmentation_weight) * without)
    return {**found, "augmentation": recipe["augmentation"], "missing": tuple(missing)}


def _asked(cell: Mapping[Any, Any], recipe: Mapping[str, Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return a cell and its recipe without teachers where nobody asks them."""
    recipe = {**recipe, **(_NO_HELP if cell["protocol"] == "real_fixed" else {})}
    asks = recipe["labels"] == "soft" or recipe["candidates"] > 1 or recipe["latent_steps"] > 0
    return {**cell, "labeller": cell["labeller"] if asks else None}, recipe


def _key(cell: Mapping[Any, Any], recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    terms = (None if pd.isna(cell[name]) else cell[name] for name in ("generator", "labeller"))
    plain = (cell[name] for name in ("protocol", "architecture", "data_fingerprint"))
    return (*terms, *plain, json.dumps(recipe, sort_keys=True))


def _longest(cells: list[dict[Any, Any]]) -> dict[tuple[Any, ...], float]:
    """Return accuracies with all real images and hard labels by data and architecture, after the longest training."""
    whole = [c for c in cells if c["protocol"] == "real_full" and c["labels"] == "hard" and c["quirks"] == NO_QUIRKS]
    whole.sort(key=lambda cell: cell["optimiser_steps"])
    return {(cell["data_fingerprint"], cell["architecture"]): float(cell["mean"]) for cell in whole}


def _score(value: float) -> float:
    """Return a weighted sum in [-1, 1] on DD-Ranking's scale, [0, 1]."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))
