"""Tables of the report without figures: the leaderboard, states of trials, and failures.

tables = leaderboard(measured_cells(evaluations))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from dim_ray.reporting.cells import leaders, lone_baselines
from dim_ray.reporting.content import Table, number, percent
from dim_ray.reporting.searches import failures
from dim_ray.store.analysis.selection import terms

__all__ = ["failure_tables", "leaderboard"]

_MOST_ROWS = 300
_MOST_FAILURES = 50
_LONGEST_ERROR = 400  # characters
_FINGERPRINT_SHOWN = 8
_HEADINGS: Mapping[str, tuple[str, str]] = {
    "on_the_fly": ("On the fly: new images in every epoch", "real, as many draws"),
    "fixed": ("Fixed: the same images in every epoch", "real, a random subset"),
}


def leaderboard(cells: pd.DataFrame) -> list[Table]:
    """Return a table per protocol of generated images, and one of training on all real images."""
    tables = []
    for protocol, (title, real) in _HEADINGS.items():
        rows, num_all = leaders(cells, protocol, _MOST_ROWS)
        baselines = lone_baselines(cells, protocol)
        both = pd.concat([part for part in (rows, baselines) if len(part)]) if len(rows) + len(baselines) else rows
        if len(both):
            both = both.sort_values(["dataset", "ipc", "architecture"], kind="stable")
            num_all += len(baselines)
            if len(both) < num_all:
                title += f" ({len(both):,} of {num_all:,} rows, the best of each dataset, IPC, student and terms)"
            tables.append(_table(both, title, tuple(_COLUMNS), accuracy="generated", real=real))
    whole = cells[cells["protocol"] == "real_full"].sort_values(["dataset", "architecture", "optimiser_steps"])
    return [*tables, _table(whole, "All real training images, the ordinary way", _OF_WHOLE)] if len(whole) else tables


def failure_tables(trials: pd.DataFrame) -> list[Table]:
    """Return trials by study and state, and the errors of failed and diverged trials, each once."""
    counts = trials.groupby(["study", "state"]).size().unstack(fill_value=0)
    tables = [
        Table(
            caption="Trials by how they ended",
            columns=("study", *map(str, counts.columns)),
            rows=[(str(study), *(number(int(n)) for n in row)) for study, row in counts.head(_MOST_ROWS).iterrows()],
        )
    ]
    bad = failures(trials)
    if len(bad):
        alike = bad.groupby(["study", "state", "error"], dropna=False, sort=False)
        kinds = alike.agg(count=("number", "size"), number=("number", "first"), host=("host", "first")).reset_index()
        shown = kinds.head(_MOST_FAILURES)
        newest = "" if len(shown) == len(kinds) else f"; the newest {len(shown)} of {len(kinds):,} errors"
        columns = ("study", "state", "trials", "newest", "host of the newest", "error")
        rows = [
            (study, state, number(count), number(newest), _text(host), _text(error))
            for study, state, error, count, newest, host in shown.itertuples(index=False)
        ]
        tables.append(Table(caption=f"Errors of failed and diverged trials{newest}", columns=columns, rows=rows))
    return tables


def _table(cells: pd.DataFrame, caption: str, columns: Sequence[str], **headings: str) -> Table:
    """Return a table with some of `_COLUMNS`, under their names or other headings."""
    return Table(
        caption=f"{caption}. Test accuracy in %, mean ± standard deviation over seeds",
        columns=[headings.get(name, name) for name in columns],
        rows=[[_COLUMNS[name](cell) for name in columns] for cell in cells.to_dict("records")],
    )


def _difference(cell: Mapping[Any, Any]) -> str:
    difference = cell["mean"] - cell["real_mean"]
    return number(difference, f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}"))


def _generator(cell: Mapping[Any, Any]) -> str:
    if pd.isna(cell["generator"]):
        return "none"
    return str(cell["generator"])[:_FINGERPRINT_SHOWN] + (", raw" if cell["weights"] == "raw" else "")


_COLUMNS: Mapping[str, Callable[[Mapping[Any, Any]], str]] = {
    "dataset": lambda cell: str(cell["dataset"]),
    "IPC": lambda cell: number(cell["ipc"]),
    "student": lambda cell: str(cell["architecture"]),
    "terms": lambda cell: terms(cell) or "usual",
    "accuracy": lambda cell: percent(cell["mean"], cell["std"]),
    "real": lambda cell: percent(cell["real_mean"], cell["real_std"]),
    "difference": _difference,
    "seeds": lambda cell: number(cell["n"]),
    "validation": lambda cell: percent(cell["validation_mean"]),
    "best in training": lambda cell: percent(cell["best_test_mean"]),
    "steps": lambda cell: number(cell["optimiser_steps"]),
    "images drawn": lambda cell: number(cell["images_drawn"]),
    "kB stored": lambda cell: number(cell["stored_bytes"], f"{cell['stored_bytes'] / 1000:,.0f}"),
    "generator": _generator,
}
_OF_WHOLE = ("dataset", "student", "terms", "accuracy", "seeds", "steps", "images drawn")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} ..."
