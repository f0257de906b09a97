"""Print how studies ended: a few lines each, one table of accuracies, and what to do next.

print_outcomes(works, outcomes, wall_seconds=95.0)
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from dim_ray.cli.summary import accuracy_table, make_console, pareto_table, print_lines, print_next, print_places
from dim_ray.errors import DimError, DivergedError
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress.stages import format_duration
from dim_ray.store.analysis.pareto import pareto_set
from tuning.contenders import Verdict
from tuning.loggers import logger_folder
from tuning.scaling import fit_pool_scaling, is_pool_scaling
from tuning.search.space import describe
from tuning.study import StudyOutcome

__all__ = ["print_outcomes"]


def print_outcomes(
    works: Sequence[Workspace], outcomes: Sequence[StudyOutcome | DimError], wall_seconds: float
) -> None:
    """Print the outcomes of studies, or raise why they failed after printing the others."""
    console = make_console()
    pairs = list(zip(works, outcomes, strict=True))
    done = [(work, outcome) for work, outcome in pairs if isinstance(outcome, StudyOutcome)]
    for work, outcome in done:
        print_lines(console, *_lines(work, outcome, wall_seconds))
    evaluated = [(work, outcome) for work, outcome in done if outcome.evaluations is not None]
    if evaluated:
        print_lines(console, "")
        for work, outcome in evaluated:
            if len(objectives := work.config.study.objectives) > 1:
                console.print(pareto_table(pareto_set(outcome.trials, objectives), objectives))
        rows = pd.concat([own.evaluations for _, own in evaluated], ignore_index=True)
        if not rows.empty:  # every student may have diverged
            console.print(accuracy_table(rows))
        for work, outcome in evaluated:
            if outcome.comparison is not None:
                print_lines(console, f"{work.dataset.name}: {outcome.comparison.text()}", "")
            if outcome.best is not None:
                print_places(console, work, str(outcome.best["generator"]))
        first, _ = evaluated[0]
        print_next(console, first, first.config.evaluation.images_per_class)
    errors = [(work, outcome) for work, outcome in pairs if isinstance(outcome, DimError)]
    if errors:
        named = " ".join(f"{work.dataset.name}: {error}" for work, error in errors)
        raise DimError(f"{len(errors)} of {len(works)} studies failed: {named}")
    if complaints := [str(outcome.diverged) for _, outcome in done if outcome.diverged]:
        raise DivergedError(" ".join(complaints))


def _lines(work: Workspace, outcome: StudyOutcome, wall_seconds: float) -> Iterator[str]:
    config, trials, cost = work.config.study, outcome.trials, outcome.cost
    if outcome.evaluations is not None and outcome.num_trials_run == outcome.num_evaluations_run == 0:
        yield f"study {work.study} is finished; nothing was added. Extend it with --num-trials above {len(trials)}."
    counts = ", ".join(f"{count} {state}" for state, count in trials["state"].value_counts().items()) or "no trial yet"
    yield f"study {work.study}: {counts}; this run took {format_duration(wall_seconds)}"
    if outcome.best is not None:
        yield _best(outcome.best, outcome.verdict)
    share = f" ({cost.saved_seconds / cost.alone_seconds:.0%})" if cost.alone_seconds else ""
    yield (
        f"cost: {cost.spent_seconds:,.0f} device seconds: {cost.networks_seconds:,.0f} for teachers and priors, "
        f"{cost.trials_seconds:,.0f} for trials, {cost.contenders_seconds:,.0f} for contenders and control; "
        f"reuse saved {cost.saved_seconds:,.0f}{share}"
    )
    if "tensorboard" in config.loggers and (folder := logger_folder(work, "tensorboard")).exists():
        yield f"curves: tensorboard --logdir {shlex.quote(str(folder))} (pip install tensorboard)"
    if is_pool_scaling(trials):
        yield from ("", *fit_pool_scaling(trials).lines())
    if outcome.evaluations is None:
        left = config.num_trials - int((trials["state"] != "failed").sum())
        yield (
            f"the time budget of {config.time_budget} is over with {left} trials to come. Run the same command again "
            "to continue; the best generator is evaluated after the last trial."
        )


def _best(best: Mapping[str, Any], verdict: Verdict | None) -> str:
    measured = verdict.text() if verdict else f"{100 * best['objective']:.1f} %"
    chosen = ", ".join(filter(None, [f"trial {best['number']}", describe(json.loads(best["params_json"]))]))
    return f"best: {chosen}; validation accuracy {measured} ({best['objective_name'].split(', ', 1)[1]})"
