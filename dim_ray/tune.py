"""Searches for the best generator of a dataset: teachers, priors, trials and the final evaluation.

    python -m dim_ray.tune                                  digits, minutes on two CPU cores
    python -m dim_ray.tune --dataset folder:PATH --num-trials 16
    python -m dim_ray.tune --config my_study.yaml --storage s3://bucket/dim
    python -m dim_ray.tune --cluster cluster.yaml --storage s3://bucket/dim     on the cluster that `ray up` made

The same command again goes on where it was interrupted. Ray is started for the run; where --address or RAY_ADDRESS
names a cluster, that one is joined.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from dim_ray.cli import TUNE_FLAGS, parse, run_main, show_progress
from dim_ray.flags import DEFAULT_STUDY
from dim_ray.stages import format_duration

if TYPE_CHECKING:
    from dim_ray.pipeline.workspace import Workspace
    from tuning.study import StudyOutcome

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Runs ``python -m dim_ray.tune``.

    Args:
        argv: Arguments without the program's name.

    Raises:
        DimError: With a sentence for the person who typed the command.
    """
    started = time.monotonic()
    config, arguments = parse(
        argv,
        program="python -m dim_ray.tune",
        description=__doc__ or "",
        flags=TUNE_FLAGS,
        defaults=DEFAULT_STUDY,
        extra=_add_dry_run,
    )
    with show_progress() as progress:
        # Imported with the display already there, because torch takes seconds.
        from dim_ray.core.checks import check_evaluation, check_training
        from dim_ray.pipeline.labels import check_labels
        from dim_ray.session import open_session
        from tuning.record import study_name
        from tuning.space import check_search
        from tuning.study import run_study
        from tuning.warm_start import check_warm_start

        checks = [check_training, check_evaluation, check_labels, check_search, check_warm_start]
        work = open_session(config, study_name, checks)
        if arguments.dry_run:
            from tuning.plan import plan_study

            lines = plan_study(work, progress).lines(datetime.now())
        else:
            outcome = run_study(work, progress)
    if arguments.dry_run:
        print("\n".join(lines))
        return
    _print(work, outcome, time.monotonic() - started)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what the study would take, and stop")


def _print(work: Workspace, outcome: StudyOutcome, wall_seconds: float) -> None:
    from dim_ray.summary import accuracy_table, make_console, print_lines, print_places
    from tuning.scaling import fit_pool_scaling, is_pool_scaling

    console = make_console()
    best, trials, cost = outcome.best, outcome.trials, outcome.cost
    if outcome.num_trials_run == 0 and outcome.num_evaluations_run == 0:
        print_lines(
            console,
            f"study {work.study} is finished; nothing was added. --num-trials above {len(trials)} extends it.",
        )
    counts = ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items()) or "no trial yet"
    share = f" ({cost.saved_seconds / cost.alone_seconds:.0%})" if cost.alone_seconds else ""
    print_lines(
        console,
        f"study {work.study}: {counts}; this run took {format_duration(wall_seconds)}",
    )
    if best is not None:
        teachers = "online teachers" if work.config.pool.kind == "online" else f"{best['pool_size']} teachers"
        measured = outcome.verdict.text() if outcome.verdict else f"{100 * best['objective']:.1f} %"
        print_lines(
            console,
            f"best: trial {best['number']}, capacity {best['capacity']}, {teachers}, "
            f"matching weight {best['matching_weight']:.3g}, adversarial weight {best['adversarial_weight']:.3g}; "
            f"validation accuracy {measured} ({best['objective_name'].split(', ', 1)[1]})",
        )
    print_lines(
        console,
        f"cost: {cost.spent_seconds:,.0f} device seconds: {cost.networks_seconds:,.0f} for teachers and priors, "
        f"{cost.trials_seconds:,.0f} for trials, {cost.contenders_seconds:,.0f} for contenders; "
        f"reuse saved {cost.saved_seconds:,.0f}{share}",
    )
    if is_pool_scaling(trials):
        print_lines(console, "", *fit_pool_scaling(trials).lines())
    if outcome.evaluations is None or best is None:
        left = work.config.study.num_trials - int((trials["state"] != "failed").sum())
        print_lines(
            console,
            f"the time budget of {work.config.study.time_budget} is over, with {left} trials to come: run the same "
            "command again to go on. The best generator is evaluated after the last one.",
        )
        return
    print_lines(console, "")
    console.print(accuracy_table(outcome.evaluations))
    print_places(console, work, str(best["generator"]), work.config.evaluation.images_per_class)


if __name__ == "__main__":
    sys.exit(run_main(main))
