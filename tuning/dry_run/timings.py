"""What earlier work in the store took: seconds of a teacher's epoch, a prior's, a trial's, and of a student's step.

    timings = StoredTimings(work)
    timings.prior_epoch(config)              # None: nothing like it is stored

A cost is taken from what had the same data and did the same in a step; the number of epochs doesn't matter, but for
students, whose tests are spread over them. Whether it was the same kind of machine isn't known.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from dim_ray.config import Config, EvaluationConfig, Protocol, fingerprint, to_dict
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.reader import Reader

__all__ = ["StoredTimings", "step_key"]

_POOL = ("batch_size", "augmentation", "precision")
_PRIOR = ("batch_size", "loss", "augmentation", "gradient_penalty_every", "discriminator_steps", "precision")
_STUDY = (  # students that validate are part of a trial
    "selection_images_per_class", "selection_seeds", "scheduler", "grace_epochs", "reduction_factor",
)  # fmt: skip
_STUDENT = ("epochs", "min_steps", "batch_size", "optimizer", "augmentation", "precision", "students_at_once")
_MATCHING = ("kind", "batch_size", "augmentation", "teachers_per_step", "precision")


def step_key(config: Config, stage: str) -> str:
    """Returns what is the same for configurations whose steps of a stage cost the same.

    Args:
        config: Of a trial.
        stage: teacher (of one architecture), prior or trial.
    """
    return fingerprint(stage, _step(to_dict(config), stage))


class StoredTimings:
    """Reads the store on first use.

    Args:
        work: The study's workspace.
    """

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._generator_card = functools.cache(self._read_generator_card)

    def teacher_epoch(self, config: Config, architecture: str) -> float | None:
        """Returns the seconds of an epoch of a teacher, the median of those that are stored."""
        ours = to_dict(config)
        return _median(
            card["wall_seconds"] / card["training"]["epochs"]
            for card in self._all_cards["teachers"]
            if card["architecture"] == architecture and _agree(card["training"], ours["pool"], _POOL)
        )

    def prior_epoch(self, config: Config) -> float | None:
        """Returns the device seconds of an epoch of a prior."""
        ours = to_dict(config)
        return _median(
            card["wall_seconds"] * card["num_workers"] / card["training"]["epochs"]
            for card in self._all_cards["priors"]
            if card["generator"] == ours["generator"] and _agree(card["training"], ours["prior"], _PRIOR)
        )

    def trial_epoch(self, config: Config) -> float | None:
        """Returns the device seconds of an epoch of a trial, with its share of what is measured at the rungs.

        They are those on the card of the generator that it made: a trial that found its generator made by another study
        took one validation alone.
        """
        ours = _step(to_dict(config), "trial")
        return _median(
            card["wall_seconds"] * row["config"]["study"]["workers_per_trial"] / row["epoch"]
            for row in self._rows
            if _step(row["config"], "trial") == ours and (card := self._card_of_own(row)) is not None
        )

    def student(
        self, architecture: str, images_per_class: int, protocol: Protocol, recipe: EvaluationConfig
    ) -> float | None:
        """Returns the seconds of a step of a student of this very recipe, with its share of the tests."""
        rows = self._evaluations
        alike = rows[
            (rows["architecture"] == architecture)
            & (rows["ipc"] == images_per_class)
            & (rows["protocol"] == protocol)
            & (rows["budget_fingerprint"] == fingerprint(recipe))
            & (rows["optimiser_steps"] > 0)
        ]
        return _median(alike["wall_seconds"] / alike["optimiser_steps"])

    @functools.cached_property
    def _rows(self) -> list[dict[str, Any]]:
        """Rows of completed trials that took no other one's result."""
        rows = Reader(self._work.config.storage.root).trials(state="completed")
        return [
            {str(name): value for name, value in row.items()} | {"config": json.loads(row["config_json"])}
            for row in rows[rows["reused_trial"].isna() & (rows["epoch"] > 0)].to_dict("records")
        ]

    @functools.cached_property
    def _evaluations(self) -> pd.DataFrame:
        dataset = self._work.dataset
        return Reader(self._work.config.storage.root).evaluations(dataset=dataset.name, data_fingerprint=dataset.digest)

    @functools.cached_property
    def _all_cards(self) -> dict[str, list[Mapping[str, Any]]]:
        artifacts, digest = self._work.artifacts, self._work.dataset.digest
        return {
            kind: [
                card
                for card in (artifacts.read_card(kind, identity) for identity in artifacts.list(kind))
                if card["dataset"]["digest"] == digest
            ]
            for kind in ("teachers", "priors")
        }

    def _card_of_own(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Returns the card of a trial's generator, where it was made of this data while the trial ran."""
        card = self._generator_card(row["generator"])
        if card is None or card["dataset"]["digest"] != self._work.dataset.digest:
            return None
        return card if row["started_at"] <= pd.Timestamp(card["created_at"]) <= row["ended_at"] else None

    def _read_generator_card(self, identity: str) -> Mapping[str, Any] | None:
        artifacts = self._work.artifacts
        return artifacts.read_card("generators", identity) if artifacts.exists("generators", identity) else None


def _step(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Returns the fields that a step's cost depends on."""
    pool, prior = _part(config["pool"], _POOL), _part(config["prior"], _PRIOR)
    if stage == "teacher":
        return {"pool": pool}
    if stage == "prior":
        return {"generator": config["generator"], "prior": prior}
    kind = config["pool"].get("kind")
    return {
        "study": _part(config["study"], _STUDY),
        "student": _part(config["evaluation"], _STUDENT),
        "networks": config["networks"],
        "generator": config["generator"],
        "prior": prior,
        "matching": _part(config["matching"], _MATCHING),
        "pool": [kind, config["pool"].get("online_steps"), pool] if kind == "online" else kind,
    }


def _part(section: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: section.get(name) for name in names}


def _agree(theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Iterable[str]) -> bool:
    return all(theirs.get(name) == ours[name] for name in names)


def _median(seconds: Iterable[float]) -> float | None:
    values = list(seconds)
    return float(statistics.median(values)) if values else None
