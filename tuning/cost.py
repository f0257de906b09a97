"""Costs of a study, and what reuse saved.

cost = study_cost(work, rows, built=["teachers/0123456789abcdef", ...])
cost.saved_seconds / cost.alone_seconds
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from dim_ray.pipeline.priors import prior_fingerprint
from dim_ray.pipeline.teachers import pool_teachers, teacher_fingerprint
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.reader import Reader

__all__ = ["NetworkCosts", "StudyCost", "network_keys", "study_cost"]


@dataclass(frozen=True, kw_only=True)
class StudyCost:
    """Device seconds of a study: time x devices."""

    trials_seconds: float
    networks_seconds: float
    """Teachers and priors that were built for it."""
    contenders_seconds: float
    """Students that decided between its best trials, and the control with its students."""
    alone_seconds: float
    """All of it, if each trial had built its own teachers and prior, and no result had been reused."""

    @property
    def spent_seconds(self) -> float:
        return self.trials_seconds + self.networks_seconds + self.contenders_seconds

    @property
    def saved_seconds(self) -> float:
        return max(0.0, self.alone_seconds - self.spent_seconds)


class NetworkCosts:
    """Device seconds of stored teachers and priors; reads each card once."""

    def __init__(self, work: Workspace) -> None:
        self._artifacts = work.artifacts
        self._seconds: dict[str, float] = {}

    def total(self, keys: Iterable[str]) -> float:
        """Return the sum for those of `keys` that are stored; a prior that diverged isn't."""
        return sum(map(self._one, keys))

    def _one(self, key: str) -> float:
        if key not in self._seconds:
            kind, _, fingerprint = key.partition("/")
            if not self._artifacts.exists(kind, fingerprint):
                return 0.0
            card = self._artifacts.read_card(kind, fingerprint)
            self._seconds[key] = card["wall_seconds"] * card.get("num_workers", 1)
        return self._seconds[key]


def network_keys(work: Workspace) -> list[str]:
    """Return the keys of a workspace's teachers and prior, relative to the storage's root."""
    teachers = [f"teachers/{teacher_fingerprint(work, number)}" for number in pool_teachers(work.config)]
    return [*teachers, f"priors/{prior_fingerprint(work)}"]


def study_cost(work: Workspace, trials: pd.DataFrame, built: Iterable[str]) -> StudyCost:
    """Add up the costs of a study's trials and of the teachers, priors and controls, by key, that it had to build."""
    ran = float(trials["device_seconds"].fillna(0.0).sum())
    costs, keys = NetworkCosts(work), set(built)
    controls = {key for key in keys if key.startswith("generators/")}
    contended = float(Reader(work.config.storage.root).validations(study=work.study)["wall_seconds"].sum())
    contended += costs.total(controls) * work.config.study.workers_per_trial
    return StudyCost(
        trials_seconds=ran,
        networks_seconds=costs.total(keys - controls),
        contenders_seconds=contended,
        alone_seconds=ran + contended + float(trials["saved_device_seconds"].fillna(0.0).sum()),
    )
