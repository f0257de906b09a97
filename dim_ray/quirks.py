"""Measure what each quirk of the reference implementation does to a generator's accuracy.

    python -m dim_ray.quirks dim_storage/generators/0123456789abcdef --ipc 1 10
    python -m dim_ray.quirks PATH --num-seeds 5 --write docs/protocols.md

Students on the fly, the reference's only protocol, are trained and tested in our way (corrected), with each single
quirk on top of it, and with the preset reference, which has its own recipe. Stored rows are not measured again. --write
replaces the text between two markers in a file by the table.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dim_ray.cli.flags import QUIRKS_FLAGS, add_generator
from dim_ray.cli.main import parse, run_main, show_progress
from dim_ray.config import PRESETS, QUIRKS, EvaluationConfig, Protocol
from dim_ray.config.presets import quirks_in_force
from dim_ray.errors import StorageError, UsageError
from dim_ray.progress.stages import format_percent

if TYPE_CHECKING:
    import pandas as pd

    from dim_ray.pipeline.students import StudentPlan
    from dim_ray.pipeline.workspace import Workspace

__all__ = ["BEGIN", "END", "effects", "main", "variants"]

BEGIN = "<!-- measured by python -m dim_ray.quirks: begin -->"
END = "<!-- measured by python -m dim_ray.quirks: end -->"

_STUDY = "quirks"
_PROTOCOL: Protocol = "on_the_fly"
_BASE = "corrected"
_HEADINGS = ("IPC", "student", "evaluated", "test accuracy in %", "minus corrected", "steps", "images drawn")
_LEFT = ("student", "evaluated")


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.quirks`` with the given arguments."""
    config, extras = parse(
        argv, program="python -m dim_ray.quirks", description=__doc__, flags=QUIRKS_FLAGS, extra=_add_arguments
    )
    if extras.write is not None:
        _replace_block(extras.write, None)  # before hours of measuring
    config = replace(config, evaluation=replace(config.evaluation, protocols=(_PROTOCOL,)))
    with show_progress() as progress:
        from dim_ray.cli.grid import find_generator, run_missing
        from dim_ray.cli.session import open_shared_session
        from dim_ray.core.data.checks import check_evaluation
        from dim_ray.pipeline.evaluations import plan_evaluations

        work = open_shared_session(config, _STUDY, check_evaluation, progress)
        fingerprint = find_generator(work, extras.generator)
        planned = {
            name: plan_evaluations(replace(work, config=replace(work.config, evaluation=evaluation)), fingerprint)
            for name, evaluation in variants(work.config.evaluation, work.dataset.num_channels).items()
        }
        every = [plan for plans in planned.values() for plan in plans]
        num_new = run_missing(work, every, progress, is_local=extras.local)
    _print(work, fingerprint, planned, num_new, extras.write)


def variants(evaluation: EvaluationConfig, num_channels: int) -> dict[str, EvaluationConfig]:
    """Return what is measured by name: corrected, each single quirk that concerns the data, and reference."""
    corrected = replace(evaluation, preset="corrected", quirks=())
    found = {_BASE: corrected}
    for quirk in quirks_in_force(QUIRKS, _PROTOCOL, num_channels):
        found[quirk] = replace(corrected, quirks=(quirk,))
    return {**found, "reference": replace(corrected, preset="reference", **PRESETS["reference"])}


def effects(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each variant, and its difference to corrected.

    Differences are between students of the same seed, which start with the same weights and noise. So if a quirk
    changes only the test, the spread of students doesn't add to its error.

    The rows are evaluations of one generator, with a column `variant`.

    Returns:
        One row per IPC, architecture and variant: `mean` and `std` of accuracy (std with n - 1; NaN if n is 1), `n`,
        `difference`, its standard error `error` (NaN with fewer than two pairs), `optimiser_steps`, `images_drawn`.
    """
    import pandas as pd

    names = list(dict.fromkeys(rows["variant"]))
    found = []
    for (ipc, architecture), cell in rows.groupby(["ipc", "architecture"], sort=True):
        by_seed = cell.pivot_table(index="seed", columns="variant", values="accuracy", aggfunc="last")
        for name in (name for name in names if name in by_seed):
            differences = (by_seed[name] - by_seed[_BASE]).dropna()
            accuracies = by_seed[name].dropna()
            first = cell[cell["variant"] == name].iloc[0]
            found.append(
                {
                    "ipc": ipc,
                    "architecture": architecture,
                    "variant": name,
                    "mean": accuracies.mean(),
                    "std": accuracies.std(),
                    "n": len(accuracies),
                    "difference": differences.mean(),
                    "error": differences.std() / math.sqrt(max(1, len(differences))),
                    "optimiser_steps": first["optimiser_steps"],
                    "images_drawn": first["images_drawn"],
                }
            )
    return pd.DataFrame(found)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_generator(parser)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the table between this file's markers")


def _print(
    work: Workspace, fingerprint: str, planned: dict[str, list[StudentPlan]], num_new: int, file: Path | None
) -> None:
    import pandas as pd

    from dim_ray.cli.summary import make_console, new_table, print_lines
    from dim_ray.pipeline.rows import read_planned
    from dim_ray.store.schema import EVALUATION_TABLE

    rows = pd.concat(
        [read_planned(work, EVALUATION_TABLE, plans).assign(variant=name) for name, plans in planned.items()]
    )
    lines = _lines(effects(rows))
    table = new_table(*_HEADINGS, left=_LEFT)
    for line in lines:
        table.add_row(*line)
    console = make_console()
    print_lines(console, f"generator {fingerprint} on {work.dataset.name}: {num_new} evaluations added")
    console.print(table)
    if file is not None:
        _replace_block(file, _markdown(lines, _conditions(work, fingerprint, rows)))
        print_lines(console, f"written into {file}")


def _lines(table: pd.DataFrame) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for cell in table.to_dict("records"):
        error = "" if math.isnan(cell["error"]) else f" ± {100 * cell['error']:.1f}"
        lines.append(
            (
                str(cell["ipc"]),
                cell["architecture"],
                cell["variant"],
                f"{format_percent(cell['mean'], cell['std'])} ({cell['n']})",
                "" if cell["variant"] == _BASE else f"{100 * cell['difference']:+.1f}{error}",
                f"{cell['optimiser_steps']:,}",
                f"{cell['images_drawn']:,}",
            )
        )
    return lines


def _conditions(work: Workspace, fingerprint: str, rows: pd.DataFrame) -> str:
    """Return the conditions of the measurement."""
    evaluation = work.config.evaluation
    places = sorted(
        {
            f"dim_ray {row['code_version']}, PyTorch {row['torch_version']}, {row['device']} with {row['num_threads']} "
            "threads"
            for row in rows.to_dict("records")
        }
    )
    return (
        f"Generator {fingerprint} on {work.dataset.name}, on the fly; mean ± standard deviation (n seeds), and mean ± "
        f"standard error of the difference to corrected, seed by seed. But for reference, the recipe is "
        f"{evaluation.epochs} epochs (at least {evaluation.min_steps} steps) of {evaluation.optimizer}, learning rate "
        f"{evaluation.learning_rate:g} ({evaluation.schedule}), batches of up to {evaluation.batch_size}, augmentation "
        f"{evaluation.augmentation}, {evaluation.labels} labels. {'; '.join(places)}."
    )


def _markdown(lines: Sequence[Sequence[str]], conditions: str) -> str:
    import textwrap

    alignments = ["---" if name in _LEFT else "---:" for name in _HEADINGS]
    table = ["| " + " | ".join(line) + " |" for line in (_HEADINGS, alignments, *lines)]
    return "\n".join([*table, "", textwrap.fill(conditions, 120)])


def _replace_block(file: Path, block: str | None) -> None:
    """Replace the text between the markers of a file; None only checks that they exist."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--write is {file}, which can't be read: {error.strerror}.") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"--write is {file}, which needs the lines {BEGIN} and {END}, in this order.")
    if block is None:
        return
    try:
        file.write_text(f"{before}{BEGIN}\n\n{block}\n\n{END}{after}", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file} can't be written: {error.strerror}. The rows are stored.") from error


if __name__ == "__main__":
    sys.exit(run_main(main))
