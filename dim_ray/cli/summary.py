"""Print results: tables, accuracies beside their baselines, where files are, and what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from dim_ray.config import PROTOCOLS, DataConfig
from dim_ray.progress import is_in_notebook
from dim_ray.progress.stages import format_percent
from dim_ray.start.script import as_typed
from dim_ray.store.analysis.selection import summarise, terms
from dim_ray.store.files.filesystem import open_root

if TYPE_CHECKING:
    import pandas as pd

    from dim_ray.pipeline.workspace import Workspace

__all__ = [
    "accuracy_table",
    "command",
    "data_flags",
    "literal",
    "make_console",
    "new_table",
    "pareto_table",
    "pool_table",
    "print_lines",
    "print_next",
    "print_places",
]

_GROUPED = (
    "import pandas; rows = pandas.read_parquet({rows}); "
    'print(rows.groupby(["dataset", "protocol", "ipc", "architecture"]).accuracy.agg(["mean", "std", "count"]))'
)
_FILE_WIDTH = 120  # columns where the output is no terminal
_HEADINGS = {
    "on_the_fly": "generated,\non the fly",
    "fixed": "generated,\nfixed",
    "real_on_the_fly": "real,\non the fly",
    "real_fixed": "real,\nfixed",
    "real_full": "real,\nall of it",
}


def make_console() -> Console:
    """Return a console on stdout, wide enough for tables in a file or notebook."""
    console = Console(highlight=False, force_terminal=False if is_in_notebook() else None)
    return console if console.is_terminal else Console(highlight=False, force_terminal=False, width=_FILE_WIDTH)


def new_table(*columns: str, left: Collection[str] = (), title: str | None = None) -> Table:
    """Return a table without rows. Columns in `left` are aligned to the left and may be folded, others to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name in columns:
        if name in left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def accuracy_table(rows: pd.DataFrame) -> Table:
    """Return test accuracies, mean ± standard deviation over seeds, with one row per dataset, IPC and architecture.

    The rows are evaluations of one generator per dataset, and of the baselines at the same budgets.
    """
    cells = summarise(rows)
    protocols = [protocol for protocol in PROTOCOLS if (cells["protocol"] == protocol).any()]
    counts = sorted({int(n) for n in cells["n"]})
    unusual = "; ".join(sorted({text for cell in cells.to_dict("records") if (text := terms(cell))}))
    title = f"test accuracy in %, mean ± std of n = {' or '.join(map(str, counts))} seeds"
    is_of_several = rows["dataset"].nunique() > 1
    columns = (*(["dataset"] if is_of_several else []), "IPC", "student", "steps", "images")
    headings = (_HEADINGS[protocol] for protocol in protocols)
    table = new_table(
        *columns, *headings, left=("dataset", "student"), title=f"{title}; {unusual}" if unusual else title
    )
    for (dataset, ipc, architecture), group in cells.groupby(["dataset", "ipc", "architecture"], sort=True):
        same = (rows["dataset"] == dataset) & (rows["ipc"] == ipc) & (rows["architecture"] == architecture)
        budget = rows[same].iloc[0]
        texts = []
        for protocol in protocols:
            cell = group[group["protocol"] == protocol]
            texts.append(format_percent(cell["mean"].iloc[0], cell["std"].iloc[0]) if len(cell) else "-")
        table.add_row(
            *([str(dataset)] if is_of_several else []),
            str(ipc),
            str(architecture),
            str(budget["optimiser_steps"]),
            f"{budget['images_drawn']:,}",
            *texts,
        )
    return table


def pool_table(cards: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of a pool, given its teachers' cards in order."""
    columns = ("teacher", "architecture", "validation\naccuracy", "snapshots\nafter steps", "seconds", "fingerprint")
    table = new_table(*columns, left=("architecture", "fingerprint"))
    for card in cards:
        table.add_row(
            str(card["number"]),
            card["architecture"],
            f"{100 * card['validation_accuracy']:.1f} %",
            ", ".join(map(str, card["steps"])),
            f"{card['wall_seconds']:.0f}",
            card["fingerprint"],
        )
    return table


def pareto_table(trials: pd.DataFrame, objectives: Sequence[str]) -> Table:
    """Return the table of a Pareto set, as from `Reader.pareto`, with one line per trial."""
    columns = ("trial", "capacity", "pool size", "validation\naccuracy in %", "generator\nbytes", "device\nseconds")
    title = f"Pareto set of {', '.join(objectives)}: {', '.join(sorted(set(trials['study'])))}"
    table = new_table(*columns, "generator", left=("generator",), title=title)
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


def print_places(console: Console, work: Workspace, generator: str) -> None:
    """Print the addresses of rows, generator, picture and log."""
    from dim_ray.cli.session import log_address
    from dim_ray.pipeline.generators import SAMPLES_FILE

    root = open_root(work.config.storage.root)
    folder = work.artifacts.uri("generators", generator)
    places = {
        "rows": root.uri_of("evaluations"),
        "generator": folder,
        "picture": root.uri_of(f"generators/{generator}/{SAMPLES_FILE}"),
        "log": log_address(work),
    }
    print_lines(console, *(f"{name:<10} {place}" for name, place in places.items()))


def print_next(console: Console, work: Workspace, ipcs: Sequence[int]) -> None:
    """Print commands for the next steps."""
    root = open_root(work.config.storage.root)
    storage, dataset, rows = root.uri, work.dataset.name, root.uri_of("evaluations")
    ipc = 10 if 10 in ipcs else ipcs[0]
    print_lines(
        console,
        "",
        "next:",
        command("-m", "dim_ray.results", "list", "--storage", storage),
        command("-m", "dim_ray.report", "--storage", storage),
        command("-c", _GROUPED.format(rows=literal(rows))),
        command(
            "-c",
            f"import dim_ray; print(dim_ray.best_generator({literal(storage)}, dataset={literal(dataset)}, ipc={ipc}))",
        ),
    )


def command(*arguments: str) -> str:
    """Return an indented command that runs Python, quoted for a shell."""
    return f"  {shlex.join(('python', *arguments))}"


def data_flags(data: DataConfig) -> list[str]:
    """Return the flags that select these data and splits."""
    others = [f.name for f in fields(data) if f.name != "dataset" and getattr(data, f.name) != f.default]
    return ["--dataset", data.dataset, *(f"--data.{name}={getattr(data, name)}" for name in others)]


def literal(text: str) -> str:
    """Return a Python literal in double quotes, because `command` adds single ones."""
    return json.dumps(text, ensure_ascii=False)


def print_lines(console: Console, *lines: str) -> None:
    """Print lines without markup or wrapping, with commands as the person types them."""
    for line in map(as_typed, lines):
        if console.is_jupyter:
            print(line)  # rich would give each line a box of its own
        else:
            console.print(line, markup=False, soft_wrap=True)
