"""The Pareto set of a study as a table with one line per trial.

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
    """Return the table of a Pareto set.

    Args:
        trials: Rows as `Reader.pareto` returns them.
        objectives: Names of the objectives.
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
            f"{row['generator_bytes']:,.0f}",
            f"{row['alone_device_seconds']:,.0f}",
            row["generator"],
        )
    return table
