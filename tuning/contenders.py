"""Contenders: the best trials of a study, between which more students decide.

    planned = contender_students(work, trials)         # run_validations(work, planned, ...)
    verdict = decide(work, trials)
    verdict.winner, verdict.text()

The search measures each trial by few students, so its best one may only be the luckiest. Contenders are measured again
by other students, with seeds that all contenders share, and the highest mean wins. The same students of its control say
what matching brought.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from dim_ray.config import Config
from dim_ray.pipeline.contenders import plan_validations
from dim_ray.pipeline.controls import control_config
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.rows import missing_rows, read_planned
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.workspace import Workspace
from dim_ray.progress.stages import format_percent
from dim_ray.store.schema import VALIDATION_TABLE
from tuning.control import Comparison, compare_rows
from tuning.intervals import Interval, paired_interval
from tuning.search.space import configure

__all__ = ["Verdict", "by_objective", "compare", "contender_students", "controlled", "decide"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The winner among contenders. Accuracies are on the validation split, in [0, 1]."""

    winner: int
    """Number of the trial with the highest mean."""
    runner_up: int
    """Number of the second best trial."""
    accuracy: float
    """Mean of the winner's students."""
    std: float
    num_seeds: int
    """Students of each contender."""
    lead: Interval
    """Lead of the winner over the runner-up, paired by seed."""

    def text(self) -> str:
        """Return it as text: 92.3 ± 0.4 % (n = 5), ahead of trial 2 by 0.8 [0.2, 1.4] points."""
        lead, other = self.lead.points(), f"trial {self.runner_up}"
        relation = f"ahead of {other} by {lead}" if self.lead.is_above_zero else f"not told apart from {other}: {lead}"
        own = f"{format_percent(self.accuracy, self.std)} % (n = {self.num_seeds})"
        return f"{own}, {relation} points"


def by_objective(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials, the highest objective first, and the earliest of equal ones."""
    completed = trials[trials["state"] == "completed"]
    return completed.sort_values(["objective", "number"], ascending=[False, True])


def contender_students(work: Workspace, trials: pd.DataFrame) -> list[StudentPlan]:
    """Return the students that decide between the contenders, given the rows of a study's trials."""
    generators = list(_contenders(work, trials)["generator"])
    return plan_validations(work, generators) if len(generators) > 1 else []


def decide(work: Workspace, trials: pd.DataFrame) -> Verdict | None:
    """Return the verdict; None if there is nothing to decide, or a student has no row yet."""
    contenders = _contenders(work, trials)
    if len(contenders) < 2:
        return None
    planned = plan_validations(work, list(contenders["generator"]))
    rows = read_planned(work, VALIDATION_TABLE, planned)
    if len(rows) < len(planned):
        return None
    # One column per contender, in their order; one row per seed.
    table = rows.pivot_table(index="seed", columns="generator", values="accuracy")[list(contenders["generator"])]
    means = table.mean()
    first, second, *_ = means.sort_values(ascending=False, kind="stable").index
    numbers = dict(zip(contenders["generator"], contenders["number"], strict=True))
    own = table[first].to_list()
    return Verdict(
        winner=int(numbers[first]),
        runner_up=int(numbers[second]),
        accuracy=statistics.fmean(own),
        std=statistics.stdev(own),
        num_seeds=len(own),
        lead=paired_interval((table[first] - table[second]).to_list()),
    )


def controlled(work: Workspace, best: Mapping[str, Any]) -> Config | None:
    """Return the configuration of the best trial's control; None if that matches nothing, or no control is wanted."""
    config = configure(work.config, json.loads(best["params_json"]))
    return control_config(config) if work.config.study.control and config.matching.kind != "none" else None


def compare(work: Workspace, best: Mapping[str, Any]) -> Comparison | None:
    """Compare the generator of the best trial with its control; None while students are missing, or without one."""
    config = controlled(work, best)
    if config is None:
        return None
    control = replace(work, config=config)
    name, generator = generator_fingerprint(control), str(best["generator"])
    planned = [*plan_validations(work, [generator]), *plan_validations(control, [name])]
    rows = read_planned(work, VALIDATION_TABLE, planned)
    return compare_rows(rows, generator, name) if len(rows) == len(planned) else None


def _contenders(work: Workspace, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the best trials with different generators that can be measured, the best first."""
    wanted = work.config.study.contenders
    chosen: list[int] = []
    if wanted > 1:
        distinct = by_objective(trials).drop_duplicates("generator")
        for place, generator in zip(distinct.index, distinct["generator"], strict=True):
            if len(chosen) == wanted:
                break
            if _can_be_measured(work, generator):
                chosen.append(place)
    return trials.loc[chosen]


def _can_be_measured(work: Workspace, generator: str) -> bool:
    """Return whether its files or all of its rows are there: somebody may have deleted it."""
    return work.artifacts.exists("generators", generator) or not missing_rows(
        work, VALIDATION_TABLE, plan_validations(work, [generator])
    )
