"""Tables of the report without figures: the leaderboard, states of trials, and failures.

tables = leaderboard(measured_cells(evaluations))
"""

from __future__ import annotations

from collections.abc import Mapping
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
            tables.append(_protocol_table(both, num_all + len(baselines), title, real))
    whole = cells[cells["protocol"] == "real_full"].sort_values(["dataset", "architecture", "optimiser_steps"])
    return [*tables, _whole_table(whole)] if len(whole) else tables


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


def _protocol_table(rows: pd.DataFrame, num_all: int, title: str, real: str) -> Table:
    shown = ""
    if len(rows) < num_all:
        shown = f"; {len(rows):,} of {num_all:,} rows, the best of each dataset, IPC, student and terms"
    return Table(
        caption=f"{title}. Test accuracy in %, mean ± standard deviation over seeds{shown}",
        columns=(
            *("dataset", "IPC", "student", "terms", "generated", real, "difference", "seeds", "validation"),
            *("best in training", "steps", "images drawn", "kB stored", "generator"),
        ),
        rows=[
            [
                cell["dataset"],
                number(cell["ipc"]),
                cell["architecture"],
                terms(cell) or "usual",
                percent(cell["mean"], cell["std"]),
                percent(cell["real_mean"], cell["real_std"]),
                _points(cell["mean"] - cell["real_mean"]),
                number(cell["n"]),
                percent(cell["validation_mean"]),
                percent(cell["best_test_mean"]),
                number(cell["optimiser_steps"]),
                number(cell["images_drawn"]),
                number(cell["stored_bytes"], f"{cell['stored_bytes'] / 1000:,.0f}"),
                _generator(cell),
            ]
            for cell in rows.to_dict("records")
        ],
    )


def _whole_table(rows: pd.DataFrame) -> Table:
    return Table(
        caption="All real training images, the ordinary way. Test accuracy in %, mean ± standard deviation over seeds",
        columns=("dataset", "student", "terms", "accuracy", "seeds", "steps", "images drawn"),
        rows=[
            (
                cell["dataset"],
                cell["architecture"],
                terms(cell) or "usual",
                percent(cell["mean"], cell["std"]),
                number(cell["n"]),
                number(cell["optimiser_steps"]),
                number(cell["images_drawn"]),
            )
            for cell in rows.to_dict("records")
        ],
    )


def _points(difference: float) -> str:
    return number(difference, f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}"))


def _generator(cell: Mapping[Any, Any]) -> str:
    if pd.isna(cell["generator"]):
        return "none"
    return str(cell["generator"])[:_FINGERPRINT_SHOWN] + (", raw" if cell["weights"] == "raw" else "")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} ..."
