"""Evaluations as means over seeds, each generator beside real images on the same terms, and the best of a dataset.

cells = measured_cells(Reader(root).evaluations())
best = best_generators(Reader(root).evaluations(), cells)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dim_ray.config import NO_QUIRKS
from dim_ray.store.analysis.selection import CELL, may_choose, rank, summarise, usual_ipc

__all__ = ["REAL", "Best", "baselines_alone", "best_generators", "curve", "leaders", "measured_cells", "whole_set"]

REAL: Mapping[str, str] = {"on_the_fly": "real_on_the_fly", "fixed": "real_fixed"}
"""The protocol of real images that a generator's is compared with."""

_KEY = list(CELL)
_PAIRED = [name for name in CELL if name not in ("generator", "weights", "protocol")]
_EXTRA = {
    "images_drawn": ("images_drawn", "max"),
    "stored_bytes": ("stored_bytes", "max"),
    "best_test_mean": ("best_test_accuracy", "mean"),
}


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best generator of a dataset, and what it was chosen by."""

    dataset: str
    protocol: str
    ipc: int
    architecture: str
    generator: str
    weights: str | None
    data_fingerprint: str
    budget_fingerprint: str
    """Of the students that it was chosen by."""
    num_compared: int
    """Generators on the same terms, itself included."""


def measured_cells(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each cell of `summarise`, with budget and best test accuracy, and real images' beside it.

    Args:
        evaluations: Rows as `Reader.evaluations` returns them.

    Returns:
        The columns of `summarise`; images_drawn, stored_bytes and best_test_mean; and real_mean, real_std and real_n
        of real images with the same data, budget and terms: NaN where they weren't measured, and of real images
        themselves.
    """
    latest = evaluations.drop_duplicates([*_KEY, "seed"], keep="last")
    extra = latest.groupby(_KEY, dropna=False).agg(**_EXTRA).reset_index()
    cells = summarise(evaluations).merge(extra, on=_KEY, how="left")
    real = cells[cells["protocol"].isin(REAL.values())]
    real = real.rename(columns={name: f"real_{name}" for name in ("protocol", "mean", "std", "n")})
    real = real[[*_PAIRED, "real_protocol", "real_mean", "real_std", "real_n"]]
    cells = cells.assign(real_protocol=cells["protocol"].map(dict(REAL)).astype(real["real_protocol"].dtype))
    return cells.merge(real, on=[*_PAIRED, "real_protocol"], how="left").drop(columns="real_protocol")


def best_generators(evaluations: pd.DataFrame) -> list[Best]:
    """Returns the best generator of each dataset that has one, by validation accuracy, the datasets by name.

    It's chosen on the fly where that was measured, at the IPC where `Reader.best` would choose it.
    """
    found = []
    may = evaluations[may_choose(evaluations)]
    for dataset, rows in may.groupby("dataset"):
        for protocol in REAL:
            if (rows["protocol"] == protocol).any():
                ipc = usual_ipc(rows, dataset=str(dataset), protocol=protocol)
                ranked = rank(rows[(rows["protocol"] == protocol) & (rows["ipc"] == ipc)])
                found.append(_best(ranked))
                break
    return found


def curve(cells: pd.DataFrame, best: Best, protocol: str) -> pd.DataFrame:
    """Returns what the students of the best generator reach under a protocol: a cell for each IPC, ascending.

    Of several budgets at one IPC it's the one that it was chosen by, else one that real images were measured at, too,
    and of these the largest.
    """
    chosen = cells[
        (cells["dataset"] == best.dataset)
        & (cells["generator"] == best.generator)
        & (cells["protocol"] == protocol)
        & (cells["architecture"] == best.architecture)
        & (cells["data_fingerprint"] == best.data_fingerprint)
        & _is_plain(cells)
    ]
    if best.weights is not None:
        chosen = chosen[chosen["weights"] == best.weights]
    order = chosen.assign(
        is_own=chosen["budget_fingerprint"] == best.budget_fingerprint, has_real=chosen["real_mean"].notna()
    ).sort_values(["ipc", "is_own", "has_real", "optimiser_steps"])
    return order.drop_duplicates("ipc", keep="last").drop(columns=["is_own", "has_real"]).reset_index(drop=True)


def whole_set(cells: pd.DataFrame, best: Best) -> Mapping[Any, Any] | None:
    """Returns the cell of students that were trained on all real images the longest, or None."""
    whole = cells[
        (cells["dataset"] == best.dataset)
        & (cells["protocol"] == "real_full")
        & (cells["architecture"] == best.architecture)
        & (cells["data_fingerprint"] == best.data_fingerprint)
        & _is_plain(cells)
    ]
    return None if whole.empty else dict(whole.sort_values("optimiser_steps").iloc[-1])


def leaders(cells: pd.DataFrame, protocol: str, most: int) -> tuple[pd.DataFrame, int]:
    """Returns the best generators of each dataset, IPC, architecture and terms, and how many cells there are in all.

    Args:
        cells: As from `measured_cells`.
        protocol: Of generated images.
        most: The most rows to return, unless there are more groups: each has its best.

    Returns:
        Rows by dataset, IPC and architecture, the best validation accuracy first.
    """
    there = cells[cells["protocol"] == protocol]
    groups = there.groupby(_PAIRED, dropna=False).ngroup()
    each = max(1, most // max(1, groups.nunique()))
    ranked = there.assign(group=groups).sort_values(
        ["dataset", "ipc", "architecture", "group", "validation_mean"], ascending=[True, True, True, True, False]
    )
    return ranked.groupby("group", sort=False).head(each), len(there)


def baselines_alone(cells: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Returns cells of the real images of a protocol of generated ones, beside which no generator was measured."""
    real = cells[cells["protocol"] == REAL[protocol]]
    generated = cells.loc[cells["protocol"] == protocol, _PAIRED].drop_duplicates()
    sides = real.merge(generated, on=_PAIRED, how="left", indicator="side")
    return sides[sides["side"] == "left_only"].drop(columns="side")


def _best(ranked: pd.DataFrame) -> Best:
    cell = ranked.iloc[0]
    return Best(
        dataset=str(cell["dataset"]),
        protocol=str(cell["protocol"]),
        ipc=int(cell["ipc"]),
        architecture=str(cell["architecture"]),
        generator=str(cell["generator"]),
        weights=str(cell["weights"]) if pd.notna(cell["weights"]) else None,
        data_fingerprint=str(cell["data_fingerprint"]),
        budget_fingerprint=str(cell["budget_fingerprint"]),
        num_compared=int(ranked["generator"].nunique()),
    )


def _is_plain(cells: pd.DataFrame) -> pd.Series[bool]:
    return (cells["quirks"] == NO_QUIRKS) & (cells["labels"] == "hard")
