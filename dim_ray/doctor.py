"""Check the nodes of a Ray cluster before a run: storage, versions, memory, disk, GPUs and process group.

    python -m dim_ray.doctor --address auto --storage /shared/dim_storage
    python -m dim_ray.doctor --address auto --storage s3://bucket/dim --dataset cifar10 --workers 4

It prints a table with one row per node and one column per check, then each problem and what to do. It exits with 0 if
all is well, with 1 if a node has a problem, and with 2 if the command itself can't work. Without --address or
RAY_ADDRESS it checks this machine. `tune` and `distill` run the same checks if there are several nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dim_ray.cli.flags import DOCTOR_FLAGS
from dim_ray.cli.main import parse, run_main, show_progress
from dim_ray.errors import DimError

if TYPE_CHECKING:
    from rich.console import Console

    from dim_ray.distributed.preflight.check import Preflight
    from dim_ray.distributed.preflight.findings import Check, NodeReport

__all__ = ["main", "print_nodes"]

_STUDY = "doctor"


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.doctor`` with the given arguments."""
    config, _ = parse(argv, program="python -m dim_ray.doctor", description=__doc__, flags=DOCTOR_FLAGS)
    with show_progress() as progress:
        from dim_ray.cli.session import open_session
        from dim_ray.core.data.checks import check_training
        from dim_ray.distributed.cluster.joining import cluster
        from dim_ray.distributed.preflight.check import run_preflight

        work = open_session(config, lambda config, dataset: _STUDY, [check_training], progress)
        with cluster(work.config, progress) as placement:
            found = run_preflight(work, placement, progress, num_trials=1, with_group=True)
    from dim_ray.cli.summary import make_console, print_lines

    console = make_console()
    print_nodes(console, found)
    print_lines(console, *([f"- {sentence}" for sentence in found.sentences] or ["all is well"]))
    if found.problems:
        names = {problem.name for problem in found.problems}
        raise DimError(f"{len(names)} of {len(found.reports)} nodes can't take part in a run; fix the problems above.")


def print_nodes(console: Console, found: Preflight) -> None:
    """Print one row per node and one column per check: ok, what is wrong, or - if it wasn't checked."""
    from rich.text import Text

    from dim_ray.cli.summary import new_table
    from dim_ray.distributed.preflight.findings import CHECKS

    marks: dict[tuple[str, Check], str] = {(problem.name, problem.check): problem.mark for problem in found.problems}
    headings = [heading.replace(" ", "\n") for heading in ("node", *CHECKS)]
    table = new_table(*headings, left=headings)
    for report in found.reports:
        cells = [marks.get((report.name, check)) or _fine(report, check) for check in CHECKS]
        table.add_row(*(Text(cell) for cell in (report.name, *cells)))
    console.print(table)


def _fine(report: NodeReport, check: Check) -> str:
    is_checked = report.failure is None and (check != "process group" or report.is_member)
    return "ok" if is_checked else "-"


if __name__ == "__main__":
    sys.exit(run_main(main))
