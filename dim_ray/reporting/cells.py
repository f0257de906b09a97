"""Means over seeds, each generator beside real images on the same terms, and the best generator of each dataset.

cells = measured_cells(Reader(root).evaluations())
best = best_generators(Reader(root).evaluations(), cells)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dim_ray.store.analysis.selection import CELL, TERMS, is_plain, may_choose, rank, summarise, usual_ipc

__all__ = ["REAL", "Best", "best_generators", "curve", "leaders", "lone_baselines", "measured_cells", "whole_set"]

REAL: Mapping[str, str] = {"on_the_fly": "real_on_the_fly", "fixed": "real_fixed"}
"""Protocols of generated images, and those of the real images that they are compared with."""

_KEY = list(CELL)
_PAIRED = [name for name in TERMS if name != "protocol"]
_EXTRA = {
    "images_drawn": ("images_drawn", "max"),
    "stored_bytes": ("stored_bytes", "max"),
    "best_test_mean": ("best_test_accuracy", "mean"),
}


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best generator of a dataset, and the terms that chose it."""

    dataset: str
    protocol: str
    ipc: int
    architecture: str
    generator: str
    weights: str | None
    data_fingerprint: str
    budget_fingerprint: str
    num_compared: int
    """Number of generators on these terms, itself included."""


def measured_cells(evaluations: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `summarise` with more columns.

    These are images_drawn, stored_bytes and best_test_mean; and real_mean, real_std and real_n of real images with the
    same data, budget and terms, NaN if there are none.
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
    """Return the best generator of each dataset by validation accuracy, ordered by dataset.

    The protocol is on the fly if that was measured, otherwise fixed; the IPC is that of `usual_ipc`.
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
    """Return the cells of the best generator under a protocol, one per IPC, ascending.

    Of several budgets at one IPC the one that chose the generator counts, else one with real images, else the largest.
    """
    chosen = cells[(cells["generator"] == best.generator) & _is_comparable(cells, best, protocol)]
    if best.weights is not None:
        chosen = chosen[chosen["weights"] == best.weights]
    order = chosen.assign(
        is_own=chosen["budget_fingerprint"] == best.budget_fingerprint, has_real=chosen["real_mean"].notna()
    ).sort_values(["ipc", "is_own", "has_real", "optimiser_steps"])
    return order.drop_duplicates("ipc", keep="last").drop(columns=["is_own", "has_real"]).reset_index(drop=True)


def whole_set(cells: pd.DataFrame, best: Best) -> Mapping[Any, Any] | None:
    """Return the cell of the longest training on all real images, or None."""
    whole = cells[_is_comparable(cells, best, "real_full")]
    return None if whole.empty else dict(whole.sort_values("optimiser_steps").iloc[-1])


def leaders(cells: pd.DataFrame, protocol: str, most: int) -> tuple[pd.DataFrame, int]:
    """Return the best generators of each dataset, IPC, architecture and terms, best first, and the number of all.

    There are at most `most` rows, or one for each group if there are more groups.
    """
    there = cells[cells["protocol"] == protocol]
    groups = there.groupby(_PAIRED, dropna=False).ngroup()
    each = max(1, most // max(1, groups.nunique()))
    ranked = there.assign(group=groups).sort_values(
        ["dataset", "ipc", "architecture", "group", "validation_mean"], ascending=[True, True, True, True, False]
    )
    return ranked.groupby("group", sort=False).head(each), len(there)


def lone_baselines(cells: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return the cells of real images without a generator on the same terms, with their values as real_mean etc."""
    real = cells[cells["protocol"] == REAL[protocol]]
    generated = cells.loc[cells["protocol"] == protocol, _PAIRED].drop_duplicates()
    sides = real.merge(generated, on=_PAIRED, how="left", indicator="side")
    there = sides[sides["side"] == "left_only"].drop(columns="side")
    own = {f"real_{name}": there[name] for name in ("mean", "std", "n")}
    return there.assign(**own, mean=float("nan"), std=float("nan"))


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


def _is_comparable(cells: pd.DataFrame, best: Best, protocol: str) -> pd.Series[bool]:
    """Return which cells of a protocol have the best generator's data and students, without quirks and teachers."""
    is_own = cells["protocol"] == protocol
    for name in ("dataset", "architecture", "data_fingerprint"):
        is_own &= cells[name] == getattr(best, name)
    return is_own & is_plain(cells)
