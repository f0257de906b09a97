"""Whether an exported generator is as good as its card says: new students are trained on its images, and compared.

    for cell in reevaluate("digits_generator"):
        print(cell.protocol, cell.difference, cell.interval, cell.is_match)

A cell of the card is one protocol, IPC, architecture and recipe, with its students' seeds and accuracies. The new
students are trained by the same recipe with other seeds: with the same ones they would be the same students, and say
nothing about how far chance goes. The difference of the means has a t interval with the variance of both groups
pooled, and is never narrower than chance among the test images makes it. All intervals together hold with 99 % where
the generator is the one that was measured, and wasn't chosen by its students' validation among many; a cell whose
interval leaves out 0 is a mismatch.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dim_ray.config import DATASETS, WEIGHTS, Config, DataConfig, EvaluationConfig, StorageConfig
from dim_ray.core.data.dataset import load_dataset
from dim_ray.core.students.student import finished
from dim_ray.errors import ArtifactError, ConfigError, DataError, StorageError, UsageError
from dim_ray.pipeline.generators import generator_from_artifact, weights_file
from dim_ray.pipeline.students import SizedGenerator, StudentPlan, group_cells, train_cells
from dim_ray.pipeline.workspace import Workspace, on_device
from dim_ray.store.analysis.selection import CELL
from dim_ray.store.artifacts import Artifact, read_artifact

__all__ = ["CELLS", "Reevaluation", "measured_cells", "reevaluate"]

CELLS = "evaluations"
"""Where a card has them."""

_CONFIDENCE = 0.99
_USUAL_SEEDS = 3  # at least
_LEAST_SEEDS = 2
_SHOWN = ("protocol", "ipc", "architecture", "weights", "preset", "quirks")
_NEEDED = ("protocol", "ipc", "architecture", "weights", "preset", "recipe", "seeds", "accuracies")  # of a cell


@dataclass(frozen=True, kw_only=True)
class Reevaluation:
    """One cell of the card, and what new students say about it."""

    protocol: str
    ipc: int
    architecture: str
    stated: tuple[float, ...]
    """Accuracies of the card's students, fractions."""
    found: tuple[float, ...]
    """Accuracies of the new ones."""
    num_test: int
    """Test images, of which accuracies are shares."""
    confidence: float
    """Of the interval."""

    @property
    def difference(self) -> float:
        """Mean accuracy of the new students less that of the card's."""
        return float(np.mean(self.found) - np.mean(self.stated))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the difference of the true means is: Student's t with pooled variance.

        Accuracies are counts of test images, so students may agree by chance, and their variance be nearly 0. Hence
        the interval is never narrower than the normal one of the binomial variance.
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
        """Whether the interval has 0 in it."""
        low, high = self.interval
        return low <= 0 <= high


def measured_cells(rows: pd.DataFrame, generator: str) -> list[dict[str, Any]]:
    """Returns what a card says of a generator's evaluations, as JSON values.

    Args:
        rows: Evaluations, oldest first.
        generator: Its fingerprint.

    Returns:
        For each cell its columns, recipe, seeds and accuracies. Cells with soft labels are left out: their teachers
        aren't exported.
    """
    own = rows[(rows["generator"] == generator) & (rows["labels"] == "hard")]
    latest = own.drop_duplicates([*CELL, "seed"], keep="last").sort_values("seed", kind="stable")
    cells = []
    for _, group in latest.groupby(list(CELL), dropna=False):
        first = group.iloc[0]
        cells.append(
            {
                **{name: first[name] if name != "ipc" else int(first[name]) for name in _SHOWN},
                "recipe": json.loads(first["recipe_json"]),
                "seeds": [int(seed) for seed in group["seed"]],
                "accuracies": [float(accuracy) for accuracy in group["accuracy"]],
            }
        )
    return cells


def reevaluate(
    uri: str,
    *,
    dataset: str | None = None,
    num_seeds: int | None = None,
    protocol: str | None = None,
    ipc: int | None = None,
    architecture: str | None = None,
) -> Iterator[Reevaluation]:
    """Trains new students for every cell of an exported generator's card, and yields each cell when it's done.

    Args:
        uri: The exported folder.
        dataset: Where the data are on this machine, as the flag --dataset takes it. Default: the card's name for them.
        num_seeds: New students for each cell. Default: as many as the card has, at least three.
        protocol: The cells of one protocol alone. Default: all; of `ipc` and `architecture` likewise.
        ipc: Images per class.
        architecture: Of the students.

    Raises:
        UsageError: Too few seeds, or no such dataset.
        ArtifactError: A file isn't the one that the card vouches for; it is named.
        DataError: The data or their splits aren't those that the generator was made from.
        StorageError: The card has no such evaluations.
        DivergedError: A student diverged.
    """
    if num_seeds is not None and num_seeds < _LEAST_SEEDS:
        raise UsageError(f"--seeds is {num_seeds}; allowed: {_LEAST_SEEDS} or more, since one student has no spread.")
    artifact = read_artifact(uri, kind="generators")
    _check(artifact, "dataset", artifact.card.get("dataset"), ("name", "digest"))
    asked = {"protocol": protocol, "ipc": ipc, "architecture": architecture}
    cells = _asked_for(artifact, {name: value for name, value in asked.items() if value is not None})
    with tempfile.TemporaryDirectory() as folder:  # a workspace has a storage; nothing is written
        config = Config(data=_data(artifact, dataset), storage=StorageConfig(root=folder))
        work = Workspace(config=config, dataset=load_dataset(config.data), study="verify")
        stated = artifact.card["dataset"]
        if work.dataset.digest != stated["digest"]:
            raise DataError(
                f"{artifact.uri} was made from {stated['name']!r} with digest {stated['digest']}, and these data are "
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


def _data(artifact: Artifact, dataset: str | None) -> DataConfig:
    """Returns the data that a card names, with the splits that it was made from."""
    name, splits = artifact.card["dataset"]["name"], artifact.card.get("splits", {})
    if dataset is None and name not in DATASETS:
        raise UsageError(
            f"{artifact.uri} was made from {name!r}, which is no known name; say with --dataset where it is."
        )
    try:
        return DataConfig(dataset=dataset or name, name=name, **splits)
    except TypeError as error:
        raise ArtifactError(
            f"the splits of {artifact.uri} aren't what this version of dim_ray reads: {error}."
        ) from error


def _asked_for(artifact: Artifact, asked: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stated = artifact.card.get(CELLS, [])
    if not stated:
        raise StorageError(
            f"the card of {artifact.uri} has no evaluations to compare with; measure the generator with python -m "
            "dim_ray.evaluate, and export it again."
        )
    if not isinstance(stated, list):
        raise ArtifactError(_unreadable(artifact, CELLS, f"they are {type(stated).__name__}, not a list"))
    for cell in stated:
        _check(artifact, CELLS, cell, _NEEDED)
    try:
        cells = [cell for cell in stated if all(cell[name] == value for name, value in asked.items())]
        if not cells:
            there = sorted({f"{cell['protocol']}, IPC {cell['ipc']}, {cell['architecture']}" for cell in stated})
            raise StorageError(f"{artifact.uri} was never measured with {asked}; there is {'; '.join(there)}.")
        for cell in cells:
            _recipe(cell["recipe"])
            if cell["weights"] not in WEIGHTS:
                raise ValueError(f"weights are {cell['weights']!r}")
            if not all(isinstance(seed, int) for seed in cell["seeds"]):
                raise ValueError(f"seeds are {cell['seeds']!r}")
            if not all(0 <= accuracy <= 1 for accuracy in cell["accuracies"]):
                raise ValueError(f"accuracies are {cell['accuracies']!r}")
            if not cell["seeds"] or len(cell["seeds"]) != len(cell["accuracies"]):
                raise ValueError("seeds and accuracies are not as many")
    except (TypeError, ValueError, ConfigError) as error:
        raise ArtifactError(_unreadable(artifact, CELLS, str(error))) from error
    return cells


def _check(artifact: Artifact, what: str, values: Any, needed: Sequence[str]) -> None:
    """Makes sure that a part of the card has its keys; a foreign program may have written it."""
    lacking = [name for name in needed if not isinstance(values, Mapping) or name not in values]
    if lacking:
        raise ArtifactError(_unreadable(artifact, what, f"there is no {', '.join(lacking)}"))


def _unreadable(artifact: Artifact, what: str, why: str) -> str:
    return (
        f"the {what} of {artifact.uri} aren't what this version of dim_ray reads ({why}): upgrade dim_ray, "
        "or export the generator again."
    )


def _train(work: Workspace, artifact: Artifact, cell: Mapping[str, Any], num_seeds: int) -> tuple[float, ...]:
    """Returns the accuracies of students with seeds that the card doesn't have."""
    stored = SizedGenerator(
        network=generator_from_artifact(artifact, cell["weights"], work.dataset.train.images.device),
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
            recipe=_recipe(cell["recipe"]),
            preset=cell["preset"],
        )
        for seed in range(first, first + num_seeds)
    ]
    accuracies: list[float] = []
    device_type = work.dataset.train.images.device.type
    for group in group_cells(work, students, num_seeds=num_seeds, device_type=device_type):
        accuracies += [
            result.accuracy for result in finished(train_cells(work, group, [stored] * len(group), test=True))
        ]
    return tuple(accuracies)


def _recipe(stated: Mapping[str, Any]) -> EvaluationConfig:
    if not isinstance(stated, Mapping):
        raise TypeError(f"the recipe is {type(stated).__name__}, not an object")
    values: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in stated.items()}
    return EvaluationConfig(**values)
