"""The tables of docs/results.md, from recorded evaluations.

    python -m benchmarks.results                     write the tables, between the page's markers
    python -m benchmarks.results add STORAGE ...     first record the evaluations of storages

Rows are kept in `RESULTS` beside the generators' recipes and the seconds that making them took: prior, teachers and
matching with validation, each once.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dim_ray.config import PROTOCOLS
from dim_ray.progress.stages import format_percent
from dim_ray.reporting.cells import REAL, measured_cells
from dim_ray.reporting.published import published
from dim_ray.store.analysis.selection import terms
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.reader import Reader

__all__ = ["PAGE", "RESULTS", "main", "record", "tables"]

RESULTS = Path(__file__).with_name("results.parquet")
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = (f"<!-- written by python -m benchmarks.results: {place} -->" for place in ("begin", "end"))

_HEADINGS = ("images", "student", "IPC", "steps", "n", "generated", "real")
_NAMES = {"on_the_fly": "on the fly", "fixed": "fixed"}
_PUBLISHED = {"cifar10-jpeg": "cifar10"}  # other names of published data sets


def record(root: str) -> pd.DataFrame:
    """Return a storage's evaluations, with columns `recipe` and `making_seconds` of their generators."""
    artifacts, rows = ArtifactStore(root), Reader(root).evaluations()
    cards = {name: artifacts.read_card("generators", name) for name in rows["generator"].dropna().unique()}
    return rows.assign(
        recipe=rows["generator"].map({name: _recipe(card) for name, card in cards.items()}),
        making_seconds=rows["generator"].map({name: _seconds(artifacts, card) for name, card in cards.items()}),
    )


def tables(rows: pd.DataFrame) -> str:
    """Return a table in Markdown for each generator, without cells of a single student."""
    cells = measured_cells(rows)
    alike = cells.groupby(["dataset", "protocol", "architecture", "ipc", "labels", "optimiser_steps"])
    cells = cells.assign(  # real images don't depend on what teachers do for generated ones
        real_mean=alike["real_mean"].transform("first"),
        real_std=alike["real_std"].transform("first"),
        place=cells["protocol"].map({name: place for place, name in enumerate(PROTOCOLS)}),
    )
    lines: list[str] = []
    for dataset, every in rows.dropna(subset="generator").groupby("dataset"):
        for name, own in every.groupby("generator", sort=False):
            maker = own.iloc[0]
            minutes = f"{maker['making_seconds'] / 60:.0f} minutes"
            lines += [f"### {dataset}", "", f"Generator: {maker['recipe']}; {minutes}.", ""]
            lines += [*_table(cells[(cells["generator"] == name) & (cells["n"] > 1)]), ""]
        lines += _others(str(dataset))
    return "\n".join(lines).rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m benchmarks.results``."""
    parser = argparse.ArgumentParser("python -m benchmarks.results", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("command", nargs="?", choices=["add"], help="what to do first")
    parser.add_argument("storages", nargs="*", metavar="STORAGE")
    options = parser.parse_args(argv)
    known = [pd.read_parquet(RESULTS)] if RESULTS.exists() else []
    rows = pd.concat([*known, *map(record, options.storages)], ignore_index=True).drop_duplicates("id", keep="last")
    if options.storages:
        rows.to_parquet(RESULTS, index=False)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _table(cells: pd.DataFrame) -> list[str]:
    cells = cells.sort_values(["place", "architecture", "ipc", "latent_steps", "optimiser_steps"])
    lines = [
        (
            ", ".join(part for part in (_NAMES[cell["protocol"]], terms(cell)) if part),
            cell["architecture"],
            str(cell["ipc"]),
            f"{cell['optimiser_steps']:,}",
            str(cell["n"]),
            format_percent(cell["mean"], cell["std"]),
            "" if pd.isna(cell["real_mean"]) else format_percent(cell["real_mean"], cell["real_std"]),
        )
        for cell in cells.to_dict("records")
    ]
    marks = ["---", "---", *["---:"] * (len(_HEADINGS) - 2)]
    return ["| " + " | ".join(line) + " |" for line in (_HEADINGS, marks, *lines)]


def _others(dataset: str) -> list[str]:
    """Return a paragraph for each protocol about what papers print."""
    lines = []
    for protocol in REAL:
        others = published(_PUBLISHED.get(dataset, dataset), protocol)
        if others:
            ipcs = " / ".join(map(str, others[0].accuracies))
            printed = (
                f"{other.method} {' / '.join(f'{100 * share:.1f}' for share in other.accuracies.values())}"
                for other in others
            )
            text = f"Published at IPC {ipcs}, {_NAMES[protocol]}, with other budgets: {', '.join(printed)}."
            lines += [textwrap.fill(text, 120), ""]
    return lines


def _recipe(card: Mapping[str, Any]) -> str:
    generator, training = card["generator"], card["training"]
    matching = training["matching"]
    size = f", 1/{generator['upsampling']} size" if generator.get("upsampling", 1) > 1 else ""
    matched = "not matched" if matching["kind"] == "none" else f"{matching['kind']} of {len(card['teachers'])} teachers"
    family = generator.get("family", "paper")
    return f"{family} {generator['capacity']}{size}; prior {training['prior']['epochs']} epochs; {matched}"


def _seconds(artifacts: ArtifactStore, card: Mapping[str, Any]) -> float:
    parts = [("priors", card["prior"]), *(("teachers", name) for name in card["teachers"])]
    return float(card["wall_seconds"]) + sum(
        float(artifacts.read_card(kind, name)["wall_seconds"]) for kind, name in parts
    )


if __name__ == "__main__":
    main()
