"""Check that an exported generator is as good as its card says, by training new students on its images.

    for cell in reevaluate("digits_generator"):
        print(cell.protocol, cell.difference, cell.interval, cell.is_match)

A cell of the card is one protocol, IPC, architecture and recipe, with its students' seeds and accuracies. New students
have the same recipe and other seeds, since the same seeds would give the same students. A cell whose interval of the
difference leaves out 0 is a mismatch. All intervals together hold with 99 % confidence, unless the generator was chosen
among many by the same students' validation accuracy.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from dim_ray.config import DATASETS, WEIGHTS, Config, DataConfig, EvaluationConfig, StorageConfig
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.core.students.student import finished
from dim_ray.errors import ArtifactError, ConfigError, DataError, StorageError, UsageError, listed
from dim_ray.pipeline.generators import generator_from_artifact, weights_file
from dim_ray.pipeline.students import SizedGenerator, StudentPlan, group_students, train_group
from dim_ray.pipeline.workspace import Workspace, on_device
from dim_ray.store.analysis.selection import CELL
from dim_ray.store.artifacts import Artifact, read_artifact

__all__ = ["CELLS", "Reevaluation", "measured_cells", "reevaluate"]

CELLS = "evaluations"
"""Key of the cells in a card."""

_CONFIDENCE = 0.99
_USUAL_SEEDS = 3
_LEAST_SEEDS = 2
_SHOWN = ("protocol", "ipc", "architecture", "weights", "preset", "quirks")


@dataclass(frozen=True, kw_only=True)
class Reevaluation:
    """One cell of the card and its new students."""

    protocol: str
    ipc: int
    architecture: str
    stated: tuple[float, ...]
    """Accuracies of the card's students, in [0, 1]."""
    found: tuple[float, ...]
    """Accuracies of the new students."""
    num_test: int
    """Number of test images."""
    confidence: float
    """Confidence of the interval."""

    @property
    def difference(self) -> float:
        """Mean accuracy of the new students minus that of the card's."""
        return float(np.mean(self.found) - np.mean(self.stated))

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the difference of the true means: Student's t with pooled variance.

        Accuracies are counts of test images, so a few students may agree by chance. The interval is therefore never
        narrower than the normal one of the binomial variance.
        """
        from scipy.stats import norm, t

        groups = (self.stated, self.found)
        degrees = sum(len(group) - 1 for group in groups)
        variance = sum(float(np.var(group)) * len(group) for group in groups) / degrees
        mean = float(np.mean((*self.stated, *self.found)))
        share = (mean * self.num_test + 0.5) / (self.num_test + 1)  # never 0 or 1
        quantile = (1 + self.confidence) / 2
        widths = (
            float(t.ppf(quantile, degrees)) * math.sqrt(variance),
            float(norm.ppf(quantile)) * math.sqrt(share * (1 - share) / self.num_test),
        )
        half = max(widths) * math.sqrt(sum(1 / len(group) for group in groups))
        return self.difference - half, self.difference + half

    @property
    def is_match(self) -> bool:
        """Whether the interval contains 0."""
        low, high = self.interval
        return low <= 0 <= high


def measured_cells(rows: pd.DataFrame, generator: str) -> list[dict[str, Any]]:
    """Return the cells of a generator for its card, as JSON values with recipe, seeds and accuracies.

    Cells with soft labels are left out, since their teachers aren't exported. Rows come oldest first.
    """
    own = rows[(rows["generator"] == generator) & (rows["labels"] == "hard")]
    latest = own.drop_duplicates([*CELL, "seed"], keep="last").sort_values("seed", kind="stable")
    return [
        {
            **{name: group[name].tolist()[0] for name in _SHOWN},
            "recipe": json.loads(group["recipe_json"].iloc[0]),
            "seeds": group["seed"].tolist(),
            "accuracies": group["accuracy"].tolist(),
        }
        for _, group in latest.groupby(list(CELL), dropna=False)
    ]


def reevaluate(
    uri: str,
    *,
    dataset: str | None = None,
    num_seeds: int | None = None,
    protocol: str | None = None,
    ipc: int | None = None,
    architecture: str | None = None,
    on_dataset: Callable[[Dataset], None] = lambda dataset: None,
) -> Iterator[Reevaluation]:
    """Train new students for every cell of an exported generator's card, and yield each cell when it's done.

    Only cells of this protocol, IPC and architecture count, with as many new students as the card has, at least three,
    by default. `dataset` says where the data are, as the flag --dataset, and `on_dataset` is called with them first.

    Raises:
        UsageError: There are too few seeds, or no such dataset.
        ArtifactError: A file was altered, or the card isn't readable; the message names it.
        DataError: The generator was made from other data or splits.
        StorageError: The card has no such evaluations.
        DivergedError: A student diverged.
    """
    if num_seeds is not None and num_seeds < _LEAST_SEEDS:
        raise UsageError(f"--seeds is {num_seeds}; allowed: {_LEAST_SEEDS} or more, since one student has no spread.")
    artifact = read_artifact(uri, kind="generators")
    with _readable(artifact, "dataset"):
        name, digest = (artifact.card["dataset"][key] for key in ("name", "digest"))
    asked = {"protocol": protocol, "ipc": ipc, "architecture": architecture}
    cells = _asked_for(artifact, {name: value for name, value in asked.items() if value is not None})
    with tempfile.TemporaryDirectory() as folder:  # a workspace needs a storage; nothing is written to it
        config = Config(data=_data(artifact, name, dataset), storage=StorageConfig(root=folder))
        work = Workspace(config=config, dataset=load_dataset(config.data), study="verify")
        on_dataset(work.dataset)
        if work.dataset.digest != digest:
            raise DataError(
                f"{artifact.uri} was made from {name!r} with digest {digest}, and these data are "
                f"{work.dataset.name!r} with digest {work.dataset.digest}; name the data that it was made from with "
                "--dataset."
            )
        work = on_device(work)
        confidence = 1 - (1 - _CONFIDENCE) / len(cells)
        for cell in cells:
            yield Reevaluation(
                protocol=cell["protocol"],
                ipc=cell["ipc"],
                architecture=cell["architecture"],
                stated=tuple(cell["accuracies"]),
                num_test=len(work.dataset.test.labels),
                found=_train(work, artifact, cell, num_seeds or max(_USUAL_SEEDS, len(cell["seeds"]))),
                confidence=confidence,
            )


def _data(artifact: Artifact, name: str, dataset: str | None) -> DataConfig:
    """Return the data that a card names, with the card's splits."""
    if dataset is None and name not in DATASETS:
        raise UsageError(
            f"{artifact.uri} was made from {name!r}, which is no known name; say with --dataset where it is."
        )
    with _readable(artifact, "splits"):
        splits = DataConfig(**artifact.card.get("splits", {}))
    return replace(splits, dataset=dataset or name, name=name)


def _asked_for(artifact: Artifact, asked: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the cells of a card with the values that are asked for."""
    stated = artifact.card.get(CELLS, [])
    if not stated:
        raise StorageError(
            f"the card of {artifact.uri} has no evaluations to compare with; measure the generator with python -m "
            "dim_ray.evaluate, and export it again."
        )
    with _readable(artifact, CELLS):
        for cell in stated:
            _check(cell)
        cells = [cell for cell in stated if all(cell[name] == value for name, value in asked.items())]
    if not cells:
        there = sorted({f"{cell['protocol']}, IPC {cell['ipc']}, {cell['architecture']}" for cell in stated})
        raise StorageError(f"{artifact.uri} was never measured with {asked}; there is {listed(there, between='; ')}.")
    return cells


def _check(cell: Mapping[str, Any]) -> None:
    """Raise an error if a cell, which another program may have written, isn't what `_train` needs."""
    for name in ("protocol", "ipc", "architecture", "preset"):
        cell[name]
    _recipe(cell)
    if cell["weights"] not in WEIGHTS:
        raise ValueError(f"weights are {cell['weights']!r}")
    if not all(isinstance(seed, int) for seed in cell["seeds"]):
        raise ValueError(f"seeds are {cell['seeds']!r}")
    if not all(0 <= accuracy <= 1 for accuracy in cell["accuracies"]):
        raise ValueError(f"accuracies are {cell['accuracies']!r}")
    if not cell["seeds"] or len(cell["seeds"]) != len(cell["accuracies"]):
        raise ValueError("seeds and accuracies are not as many")


def _recipe(cell: Mapping[str, Any]) -> EvaluationConfig:
    stated: Mapping[str, Any] = cell["recipe"]
    values: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in stated.items()}
    return EvaluationConfig(**values)


@contextmanager
def _readable(artifact: Artifact, what: str) -> Iterator[None]:
    """Turn errors about a part of the card into an ArtifactError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
        why = f"there is no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"the {what} of {artifact.uri} aren't what this version of dim_ray reads ({why}): upgrade dim_ray, or "
            "export the generator again."
        ) from error


def _train(work: Workspace, artifact: Artifact, cell: Mapping[str, Any], num_seeds: int) -> tuple[float, ...]:
    """Return the accuracies of students with seeds that the card doesn't have."""
    stored = SizedGenerator(
        network=generator_from_artifact(artifact, cell["weights"], work.dataset.device),
        size_bytes=len(artifact.files[weights_file(cell["weights"])]),
    )
    first = max(cell["seeds"]) + 1
    students = [
        StudentPlan(
            protocol=cell["protocol"],
            images_per_class=cell["ipc"],
            architecture=cell["architecture"],
            seed=seed,
            generator=str(artifact.card["fingerprint"]),
            weights=cell["weights"],
            recipe=_recipe(cell),
            preset=cell["preset"],
        )
        for seed in range(first, first + num_seeds)
    ]
    groups = group_students(work, students, num_seeds=num_seeds)
    results = [finished(train_group(work, group, [stored] * len(group), test=True)) for group in groups]
    return tuple(result.accuracy for group in results for result in group)
