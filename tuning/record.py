"""A study on the storage: its configuration, its trials' rows, and the best of them.

record = StudyRecord(work)
with record.held():
    record.open()
    record.finished(), record.best()
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pandas as pd
import yaml

from dim_ray.config import Config, fingerprint, to_dict
from dim_ray.core.data.dataset import Dataset
from dim_ray.errors import ConfigError, DimError, listed
from dim_ray.pipeline.checkpoints import checkpoint_key
from dim_ray.pipeline.controls import missing_students
from dim_ray.pipeline.evaluations import plan_evaluations
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.rows import missing_rows
from dim_ray.pipeline.students import StudentPlan
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.files.claims import claimed
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.reader import Reader
from dim_ray.store.schema import EVALUATION_TABLE, VALIDATION_TABLE
from dim_ray.store.writer import Writer
from dim_ray.version import __version__
from tuning.contenders import by_objective, contender_students, controlled, decide
from tuning.cost import NetworkCosts, StudyCost, network_keys, study_cost
from tuning.search.objectives import generator_costs, objective_name, row_values, worst_costs
from tuning.search.optuna_search import (
    FAILED_TRIAL,
    METRIC,
    REUSED_SECONDS,
    REUSED_TRIAL,
    SECONDS,
    TIME_ATTRIBUTE,
)
from tuning.search.schedulers import METRIC_STD
from tuning.search.settling import Finished
from tuning.search.space import configure

__all__ = ["StudyRecord", "study_name"]

_NAME_DIGITS = 8
_CONFIGURATIONS = 1024  # kept: more than trials run at once


def study_name(config: Config, dataset: Dataset) -> str:
    """Return the configured name, or one that differs with everything that changes the result."""
    return config.study.name or f"{dataset.name}-{fingerprint(config, dataset.digest)[:_NAME_DIGITS]}"


class StudyRecord:
    """Rows and files of one study."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._writer = Writer(work.config.storage.root)
        self._network_costs = NetworkCosts(work)
        # Checking a configuration takes milliseconds, and a trial's is needed five times.
        self._configure = lru_cache(_CONFIGURATIONS)(
            lambda items: replace(work, config=configure(work.config, dict(items)))
        )
        self._check_claim: Callable[[], None] | None = None  # while it's held
        self._rows: pd.DataFrame | None = None  # while nobody else writes them

    def key(self, name: str) -> str:
        """Return the key of a file of the study, relative to the storage's root."""
        return f"studies/{self._work.study}/{name}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the study's only driver, or raise a ResourceError if another process is."""
        root = open_root(self._work.config.storage.root)
        try:
            with claimed(root, self.key("driver"), f"study {self._work.study!r}") as self._check_claim:
                yield
        finally:
            self._check_claim = self._rows = None

    def open(self) -> None:
        """Write the configuration if the study begins, or `check` the one that it began with."""
        if self.check():
            return
        artifacts, config = self._work.artifacts, to_dict(self._work.config)
        ours = {"fingerprint": self._fingerprint(), "config": config}
        artifacts.write_bytes(self.key("config.yaml"), yaml.safe_dump(config, sort_keys=False).encode())
        artifacts.write_bytes(self.key("study.json"), json.dumps(ours, indent=1).encode())

    def check(self) -> bool:
        """Return whether the study has begun; raise a ConfigError if with another configuration or other data."""
        stored = self._work.artifacts.read_bytes(self.key("study.json"))
        if stored is None:
            return False
        theirs = json.loads(stored)
        if theirs["fingerprint"] != self._fingerprint():
            differences = listed(_differences(theirs["config"], self._work.config)) or "the images"
            raise ConfigError(
                f"study {self._work.study!r} began with another configuration ({differences}). "
                "Choose another name with --study, or leave it out."
            )
        return True

    def trials(self) -> pd.DataFrame:
        """Return the rows of the study's trials, by number."""
        if self._rows is not None:
            return self._rows.copy()
        rows = Reader(self._work.config.storage.root).trials(study=self._work.study)
        rows = rows.sort_values("number", ignore_index=True)
        if self._check_claim is not None:
            self._rows = rows.copy()
        return rows

    def finished(self) -> dict[int, Finished]:
        """Return the finished trials, by number; a failed one isn't finished."""
        rows, study = self.trials(), self._work.config.study
        return {
            int(row["number"]): Finished(
                json.loads(row["params_json"]),
                row_values(study, row),
                int(row["epoch"]) if row["state"] == "stopped" else None,
                row["drawn_by"] if isinstance(row["drawn_by"], str) else None,
            )
            for row in rows[rows["state"] != "failed"].to_dict("records")
        }

    def generator_of(self, parameters: Mapping[str, Any]) -> str:
        """Return the fingerprint of the generator that parameters lead to."""
        return generator_fingerprint(self._configured(parameters))

    def results(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """Return number and last result of the trials that ran themselves, by generator fingerprint."""
        found: dict[str, tuple[int, dict[str, Any]]] = {}
        for row in self.trials().to_dict("records"):
            if row["state"] == "failed" or pd.notna(row["reused_trial"]) or pd.isna(row["objective"]):
                continue
            result = {METRIC: row["objective"], TIME_ATTRIBUTE: int(row["epoch"]), SECONDS: row["wall_seconds"]}
            if pd.notna(row["objective_std"]):
                result[METRIC_STD] = row["objective_std"]
            if row["state"] == "diverged":
                result["diverged"] = row["error"]
            found.setdefault(row["config_fingerprint"], (row["number"], result))
        return found

    def measured(self, parameters: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
        """Return a trial's last result with the objectives that Tune doesn't know."""
        trial = self._configured(parameters)
        is_there = _state(trial.config, result) == "completed"
        return {**result, **(generator_costs(trial, self._network_costs) if is_there else worst_costs())}

    def note_missing(self, keys: Iterable[str]) -> None:
        """Note networks that the study is about to build: they count among its costs."""
        known = self._built()
        if new := sorted({*known, *keys}):
            self._work.artifacts.write_bytes(self.key("networks.json"), json.dumps(new, indent=1).encode())

    def cost(self) -> StudyCost:
        """Return what the study has cost so far, and what reuse saved."""
        return study_cost(self._work, self.trials(), self._built())

    def failed(self) -> dict[int, dict[str, Any]]:
        """Return the parameters of the failed trials, by number; they are tried again."""
        rows = self.trials()
        rows = rows[rows["state"] == "failed"]
        return {
            int(n): json.loads(parameters) for n, parameters in zip(rows["number"], rows["params_json"], strict=True)
        }

    def best(self) -> dict[str, Any]:
        """Return the row of the winning contender, or if there is no verdict, of the best completed trial.

        That one's generator is stored, or was measured: somebody may have deleted others. Without a completed trial, a
        DimError has the first reason.
        """
        rows = self.trials()
        completed = by_objective(rows)
        if completed.empty:
            counts = ", ".join(f"{count} {state}" for state, count in rows["state"].value_counts().items())
            errors = rows["error"].dropna()
            reason = f" The first error: {errors.iloc[0]}" if len(errors) else ""
            raise DimError(
                f"study {self._work.study!r} has no completed trial ({counts or 'none at all'}), so no generator can "
                f"be chosen.{reason} Details are in the log; change the configuration, or add trials with --num-trials."
            )
        verdict = decide(self._work, rows)
        if verdict is not None:
            best = completed[completed["number"] == verdict.winner].iloc[0]
        else:
            there = (row for _, row in completed.iterrows() if self._is_or_was_measured(row["generator"]))
            best = next(there, completed.iloc[0])
        return {str(name): value for name, value in best.items()}

    def missing_students(self) -> tuple[list[StudentPlan], list[StudentPlan], list[StudentPlan]]:
        """Return the students without a row: the contenders' or, once those are done, of evaluation and control."""
        contending = missing_rows(self._work, VALIDATION_TABLE, contender_students(self._work, self.trials()))
        if contending:
            return contending, [], []
        best = self.best()
        generator, control = str(best["generator"]), controlled(self._work, best)
        planned = plan_evaluations(self._work, generator)
        compared = missing_students(self._work, generator, control) if control else []
        return [], missing_rows(self._work, EVALUATION_TABLE, planned), compared

    def write_trial(
        self,
        number: int,
        parameters: Mapping[str, Any],
        result: Mapping[str, Any] | None,
        error: str | None = None,
        drawn_by: str | None = None,
    ) -> None:
        """Write a trial's row, or replace it, with its last result as from `measured`; None if the trial failed."""
        self._rows = None
        if self._check_claim is not None:
            self._check_claim()
        trial = self._configured(parameters)
        config, generator = trial.config, generator_fingerprint(trial)
        result = result or {}
        epoch = result.get(TIME_ATTRIBUTE)
        seconds = result.get(SECONDS)
        saved = self._network_costs.total(network_keys(trial))
        ended = datetime.now(UTC)
        state = _state(config, result)
        self._writer.append_trial(
            {
                "study": self._work.study,
                "number": number,
                "state": state,
                "pool_size": config.pool.size,
                "capacity": config.generator.capacity,
                "matching_weight": config.matching.weight,
                "adversarial_weight": config.matching.adversarial_weight,
                "params_json": json.dumps(dict(parameters), sort_keys=True),
                "drawn_by": drawn_by,
                "objective": result.get(METRIC),
                "objective_name": objective_name(config.study),
                "num_seeds": {"completed": config.study.selection_seeds, "stopped": config.study.rung_seeds}.get(state),
                "objective_std": result.get(METRIC_STD),
                "epoch": epoch,
                "device_seconds": None if seconds is None else seconds * config.study.workers_per_trial,
                "saved_device_seconds": saved + result.get(REUSED_SECONDS, 0.0) * config.study.workers_per_trial,
                "reused_trial": result.get(REUSED_TRIAL),
                "generator_bytes": result.get("generator_bytes") if state == "completed" else None,
                "alone_device_seconds": result.get("alone_device_seconds") if state == "completed" else None,
                "wall_seconds": seconds,
                "generator": generator if state == "completed" else None,
                "config_fingerprint": generator,
                "config_json": json.dumps(to_dict(config), sort_keys=True),
                "error": error or result.get("diverged") or _failed_with(result),
                "started_at": None if seconds is None else ended - timedelta(seconds=seconds),
                "ended_at": ended,
                "host": platform.node(),
                "code_version": __version__,
            }
        )

    def forget_checkpoints(self) -> None:
        """Delete the checkpoints of completed and stopped trials; the others' may still be needed."""
        rows = self.trials()
        for generator in rows[rows["state"].isin(["completed", "stopped"])]["config_fingerprint"]:
            self._work.artifacts.delete(checkpoint_key(self._work.study, generator))

    def _is_or_was_measured(self, generator: str) -> bool:
        if self._work.artifacts.exists("generators", generator):
            return True
        rows = Reader(self._work.config.storage.root).evaluations(dataset=self._work.dataset.name, generator=generator)
        return not rows.empty

    def _fingerprint(self) -> str:
        return fingerprint(self._work.config, self._work.dataset.digest)

    def _configured(self, parameters: Mapping[str, Any]) -> Workspace:
        return self._configure(tuple(sorted(parameters.items())))

    def _built(self) -> list[str]:
        keys: list[str] = json.loads(self._work.artifacts.read_bytes(self.key("networks.json")) or b"[]")
        return keys


def _state(config: Config, result: Mapping[str, Any]) -> str:
    if METRIC not in result:
        return "failed"
    if "diverged" in result:
        return "diverged"
    return "completed" if result[TIME_ATTRIBUTE] >= config.matching.epochs else "stopped"


def _failed_with(result: Mapping[str, Any]) -> str | None:
    return f"it is the same as trial {result[FAILED_TRIAL]}, which failed" if FAILED_TRIAL in result else None


def _differences(theirs: Mapping[str, Any], ours: Config) -> list[str]:
    """Return the fields that make it another study, with both values."""
    values = to_dict(ours)
    return [
        f"{section.name}.{field.name} was {before!r} and is {values[section.name][field.name]!r}"
        for section in fields(ours)
        for field in fields(getattr(ours, section.name))
        if not field.metadata.get("place")
        and (before := theirs.get(section.name, {}).get(field.name)) != values[section.name][field.name]
    ]
