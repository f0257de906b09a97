"""Searches for the best generator of a dataset: teachers, priors, trials and the final evaluation.

    python -m dim_ray.tune                                  digits, minutes on two CPU cores
    python -m dim_ray.tune --dataset folder:PATH --num-trials 16
    python -m dim_ray.tune --dataset mnist fashion_mnist    a study of each, and one table
    python -m dim_ray.tune --config my_study.yaml --storage s3://bucket/dim
    python -m dim_ray.tune --cluster cluster.yaml --storage s3://bucket/dim     on the cluster that `ray up` made

The same command again goes on where it was interrupted. Ray is started for the run; where --address or RAY_ADDRESS
names a cluster, that one is joined.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from dim_ray.cli import TUNE_FLAGS, parse, run_main, show_progress
from dim_ray.config import Config
from dim_ray.errors import DimError, UsageError
from dim_ray.flags import DEFAULT_STUDY
from dim_ray.stages import format_duration

if TYPE_CHECKING:
    from rich.console import Console

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
    configs = _one_each(config, arguments.datasets)
    with show_progress() as progress:
        # Imported with the display already there, because torch takes seconds.
        from dim_ray.cli import start_logging
        from dim_ray.core.checks import check_evaluation, check_training
        from dim_ray.pipeline.labels import check_labels
        from dim_ray.session import log_path, open_session
        from tuning.record import study_name
        from tuning.space import check_search
        from tuning.study import run_studies
        from tuning.warm_start import check_warm_start

        checks = [check_training, check_evaluation, check_labels, check_search, check_warm_start]
        works = [open_session(own, study_name, checks) for own in configs]
        if arguments.dry_run:
            from tuning.plan import plan_study

            lines = [line for work in works for line in plan_study(work, progress).lines(datetime.now())]
        else:
            outcomes = run_studies(works, progress, on_begin=lambda work: start_logging(log_path(work)))
    if arguments.dry_run:
        print("\n".join(lines))
        return
    _print(works, outcomes, time.monotonic() - started)


def _one_each(config: Config, datasets: Sequence[str]) -> list[Config]:
    """Returns the configuration of each data set's study; with a name, they are NAME-mnist, NAME-svhn, ..."""
    if len(datasets) < 2:
        return [config]
    if config.data.name is not None:
        raise UsageError(
            f"data.name is {config.data.name!r}, which is the name of one data set, and --dataset has {len(datasets)}; "
            "leave one of them out."
        )
    configs = [replace(config, data=replace(config.data, dataset=dataset)) for dataset in datasets]
    labels = [own.data.label for own in configs]
    if len(set(labels)) < len(labels):
        raise UsageError(
            f"--dataset is {' '.join(datasets)}, whose names are {' '.join(labels)}, and rows are stored under them; "
            "give each name once, or run them one after the other with --data.name."
        )
    if config.study.name is None:
        return configs
    return [replace(own, study=replace(own.study, name=f"{own.study.name}-{own.data.label}")) for own in configs]


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what the study would take, and stop")


def _print(works: Sequence[Workspace], outcomes: Sequence[StudyOutcome | DimError], wall_seconds: float) -> None:
    import pandas as pd

    from dim_ray.summary import accuracy_table, make_console, print_lines, print_next, print_places

    console = make_console()
    pairs = [(work, own) for work, own in zip(works, outcomes, strict=True) if not isinstance(own, DimError)]
    for work, outcome in pairs:
        _print_study(console, work, outcome, wall_seconds)
    measured = [own.evaluations for _, own in pairs if own.evaluations is not None]
    if measured:
        print_lines(console, "")
        for work, outcome in pairs:
            _print_pareto(console, work, outcome)
        console.print(accuracy_table(pd.concat(measured, ignore_index=True)))
    for work, outcome in pairs:
        if outcome.evaluations is not None and outcome.best is not None:
            print_places(console, work, str(outcome.best["generator"]))
    if measured:
        print_next(console, pairs[0][0], pairs[0][0].config.evaluation.images_per_class)
    errors = [(work, own) for work, own in zip(works, outcomes, strict=True) if isinstance(own, DimError)]
    if errors:
        raise DimError(
            f"{len(errors)} of {len(works)} studies failed: "
            + " ".join(f"{work.dataset.name}: {error}" for work, error in errors)
        )


def _print_study(console: Console, work: Workspace, outcome: StudyOutcome, wall_seconds: float) -> None:
    from dim_ray.summary import print_lines
    from tuning.scaling import fit_pool_scaling, is_pool_scaling
    from tuning.space import further

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
            f"matching weight {best['matching_weight']:.3g}, adversarial weight {best['adversarial_weight']:.3g}"
            f"{further(json.loads(best['params_json']))}; "
            f"validation accuracy {measured} ({best['objective_name'].split(', ', 1)[1]})",
        )
    print_lines(
        console,
        f"cost: {cost.spent_seconds:,.0f} device seconds: {cost.networks_seconds:,.0f} for teachers and priors, "
        f"{cost.trials_seconds:,.0f} for trials, {cost.contenders_seconds:,.0f} for contenders; "
        f"reuse saved {cost.saved_seconds:,.0f}{share}",
    )
    if is_pool_scaling(trials):
        print_lines(console, "", *fit_pool_scaling(trials).lines(), "")
    if outcome.evaluations is None or best is None:
        left = work.config.study.num_trials - int((trials["state"] != "failed").sum())
        print_lines(
            console,
            f"the time budget of {work.config.study.time_budget} is over, with {left} trials to come: run the same "
            "command again to go on. The best generator is evaluated after the last one.",
        )


def _print_pareto(console: Console, work: Workspace, outcome: StudyOutcome) -> None:
    objectives = work.config.study.objectives
    if len(objectives) > 1:
        from dim_ray.pareto_table import pareto_table
        from dim_ray.store.pareto import pareto_set

        console.print(pareto_table(pareto_set(outcome.trials, objectives), objectives))


if __name__ == "__main__":
    sys.exit(run_main(main))
