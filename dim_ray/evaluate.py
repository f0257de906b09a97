"""Measure a stored generator with students over a grid of protocol x IPC x architecture x seed, one row each.

    python -m dim_ray.evaluate                              the storage's best generator of digits
    python -m dim_ray.evaluate dim_storage/generators/0123456789abcdef --ipc 1 10 50
    python -m dim_ray.evaluate PATH --architecture convnet3 resnet18 --protocol on_the_fly --num-seeds 5
    python -m dim_ray.evaluate PATH --local                 in this process, without Ray

Stored rows are not measured again. The default protocols include the baselines on real images, with the same budgets,
recipe, labels and quirks. docs/protocols.md explains protocols, presets and quirks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dim_ray.cli.flags import EVALUATE_FLAGS, add_generator
from dim_ray.cli.main import parse, run_main, show_progress

if TYPE_CHECKING:
    from dim_ray.pipeline.students import StudentPlan
    from dim_ray.pipeline.workspace import Workspace

__all__ = ["main"]

_STUDY = "evaluate"


def main(argv: Sequence[str]) -> None:
    """Run ``python -m dim_ray.evaluate`` with the given arguments."""
    config, extras = parse(
        argv, program="python -m dim_ray.evaluate", description=__doc__, flags=EVALUATE_FLAGS, extra=add_generator
    )
    with show_progress() as progress:
        from dim_ray.cli.grid import find_generator, run_missing
        from dim_ray.cli.session import open_shared_session
        from dim_ray.core.data.checks import check_evaluation
        from dim_ray.pipeline.evaluations import plan_evaluations

        work = open_shared_session(config, _STUDY, check_evaluation, progress)
        fingerprint = find_generator(work, extras.generator)
        planned = plan_evaluations(work, fingerprint)
        num_new = run_missing(work, planned, progress, is_local=extras.local)
    _print(work, fingerprint, planned, num_new)


def _print(work: Workspace, fingerprint: str, planned: Sequence[StudentPlan], num_new: int) -> None:
    from dim_ray.cli.summary import accuracy_table, make_console, print_lines, print_next, print_places
    from dim_ray.pipeline.rows import read_planned
    from dim_ray.store.schema import EVALUATION_TABLE

    console, num_stored = make_console(), len(planned) - num_new
    text = f"generator {fingerprint} on {work.dataset.name}: {num_new} evaluations added, {num_stored} stored before"
    print_lines(console, text, "")
    console.print(accuracy_table(read_planned(work, EVALUATION_TABLE, planned)))
    print_places(console, work, fingerprint)
    print_next(console, work, work.config.evaluation.images_per_class)


if __name__ == "__main__":
    sys.exit(run_main(main))
