"""The Pareto set of a study as a person reads it: a line a trial.

console.print(pareto_table(store.pareto(study="digits-small"), ("accuracy", "generator_bytes")))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["pareto_table"]


def pareto_table(trials: pd.DataFrame, objectives: Sequence[str]) -> Table:
    """Return number, capacity, pool size, all that may be an objective, and the generator's fingerprint.

    Args:
        trials: Rows as `Reader.pareto` returns them.
        objectives: That no other trial beats them in.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Pareto set of {', '.join(objectives)}: {', '.join(sorted(set(trials['study'])))}",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for name in ("trial", "capacity", "pool size", "validation\naccuracy in %", "generator\nbytes", "device\nseconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("generator", no_wrap=True)
    for row in trials.to_dict("records"):
        table.add_row(
            str(row["number"]),
            str(row["capacity"]),
            str(row["pool_size"]),
            f"{100 * row['objective']:.1f}",
            _number(row["generator_bytes"]),
            _number(row["alone_device_seconds"]),
            row["generator"],
        )
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == value else "-"  # rows of an older version have none
