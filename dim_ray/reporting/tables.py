"""Tables of the report that stand without a figure: the leaderboard, states of trials, and what failed.

tables = leaderboard(measured_cells(evaluations))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dim_ray.reporting.cells import baselines_alone, leaders
from dim_ray.reporting.content import Cell, Column, Table, number, percent
from dim_ray.reporting.searches import failures
from dim_ray.store.analysis.selection import terms

__all__ = ["failure_tables", "leaderboard"]

_MOST_ROWS = 300
_FEW_ROWS = 8  # are seen at once
_MOST_FAILURES = 50
_LONGEST_ERROR = 400  # characters
_FINGERPRINT_SHOWN = 8
_HEADINGS: Mapping[str, tuple[str, str, str]] = {
    "on_the_fly": ("On the fly: new images in every epoch", "generated", "real, as many draws"),
    "fixed": ("Fixed: the same images in every epoch", "generated", "real, a random subset"),
}


def leaderboard(cells: pd.DataFrame) -> list[Table]:
    """Returns a table for each protocol of generated images, and one of all real images where they were measured.

    Args:
        cells: As from `dim_ray.reporting.cells.measured_cells`.
    """
    tables = []
    for protocol, (title, generated, real) in _HEADINGS.items():
        rows, num_all = leaders(cells, protocol, _MOST_ROWS)
        alone = _without_generators(cells, protocol)
        both = pd.concat([part for part in (rows, alone) if len(part)]) if len(rows) + len(alone) else rows
        if len(both):
            both = both.sort_values(["dataset", "ipc", "architecture"], kind="stable")
            tables.append(_protocol_table(both, num_all + len(alone), title, generated, real))
    whole = cells[cells["protocol"] == "real_full"].sort_values(["dataset", "architecture", "optimiser_steps"])
    if len(whole):
        tables.append(_whole_table(whole))
    return tables


def failure_tables(trials: pd.DataFrame) -> list[Table]:
    """Returns trials by study and state, and the errors of those that failed or diverged, each once."""
    counts = trials.groupby(["study", "state"]).size().unstack(fill_value=0)
    states = [str(state) for state in counts.columns]
    tables = [
        Table(
            caption="Trials by how they ended",
            columns=(Column("study"), *(Column(state, is_number=True) for state in states)),
            rows=[(str(study), *(number(int(n)) for n in row)) for study, row in counts.head(_MOST_ROWS).iterrows()],
        )
    ]
    bad = failures(trials)
    if len(bad):
        alike = bad.groupby(["study", "state", "error"], dropna=False, sort=False)
        kinds = alike.agg(count=("number", "size"), number=("number", "first"), host=("host", "first")).reset_index()
        shown = kinds.head(_MOST_FAILURES)
        newest = "" if len(shown) == len(kinds) else f"; the newest {len(shown)} of {len(kinds):,} errors"
        numbers = (Column(name, is_number=True) for name in ("trials", "newest"))
        tables.append(
            Table(
                caption=f"Errors of failed and diverged trials{newest}",
                columns=(Column("study"), Column("state"), *numbers, Column("host of the newest"), Column("error")),
                rows=[
                    (
                        row["study"],
                        row["state"],
                        number(row["count"]),
                        number(row["number"]),
                        _text(row["host"]),
                        _error(row["error"]),
                    )
                    for row in shown.to_dict("records")
                ],
            )
        )
    return tables


def _protocol_table(rows: pd.DataFrame, num_all: int, title: str, generated: str, real: str) -> Table:
    records = rows.to_dict("records")
    unusual = [terms(cell) for cell in records]
    has_terms = any(unusual)
    shown = (
        ""
        if len(rows) == num_all
        else f"; {len(rows):,} of {num_all:,} rows, the best of each dataset, IPC, student and terms"
    )
    table: list[list[Cell]] = []
    for cell, how in zip(records, unusual, strict=True):
        table.append(
            [
                cell["dataset"],
                number(cell["ipc"]),
                cell["architecture"],
                *([how or "usual"] if has_terms else []),
                percent(cell["mean"], cell["std"]),
                percent(cell["real_mean"], cell["real_std"]),
                _points(cell["mean"] - cell["real_mean"]),
                number(cell["n"]),
                percent(cell["validation_mean"]),
                percent(cell["best_test_mean"]),
                number(cell["optimiser_steps"]),
                number(cell["images_drawn"]),
                number(cell["stored_bytes"] / 1000, f"{cell['stored_bytes'] / 1000:,.0f}"),
                _generator(cell),
            ]
        )
    numbers = (
        generated, real, "difference", "seeds", "validation", "best in training", "steps", "images drawn", "kB stored",
    )  # fmt: skip
    return Table(
        caption=f"{title}. Test accuracy in %, mean ± standard deviation over seeds{shown}",
        columns=(
            Column("dataset"),
            Column("IPC", is_number=True),
            Column("student"),
            *([Column("terms")] if has_terms else []),
            *(Column(name, is_number=True) for name in numbers),
            Column("generator"),
        ),
        rows=table,
        is_searched=len(table) > _FEW_ROWS,
    )


def _without_generators(cells: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Returns the cells of real images beside which no generator was measured, in the columns of real ones."""
    there = baselines_alone(cells, protocol)
    real = {f"real_{name}": there[name] for name in ("mean", "std", "n")}
    return there.assign(**real, mean=float("nan"), std=float("nan"))


def _whole_table(rows: pd.DataFrame) -> Table:
    return Table(
        caption="All real training images, the ordinary way. Test accuracy in %, mean ± standard deviation over seeds",
        columns=(
            *map(Column, ("dataset", "student", "terms")),
            *(Column(name, is_number=True) for name in ("accuracy", "seeds", "steps", "images drawn")),
        ),
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


def _points(difference: float) -> Cell:
    text = None if pd.isna(difference) else f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")
    return number(difference, text)


def _generator(cell: Mapping[Any, Any]) -> str:
    if pd.isna(cell["generator"]):
        return "none"
    return str(cell["generator"])[:_FINGERPRINT_SHOWN] + (", raw" if cell["weights"] == "raw" else "")


def _error(text: Any) -> str:
    text = _text(text)
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} ..."


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
