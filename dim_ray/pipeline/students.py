"""Students of a workspace: cells of the evaluation grid, and the validation that chooses hyperparameters."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dim_ray.config import EvaluationConfig, Protocol, Weights
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.data.splits import class_counts
from dim_ray.core.generator.networks import Generator
from dim_ray.core.students.budgets import Budget, plan_budget
from dim_ray.core.students.images import ImageStream, make_image_stream
from dim_ray.core.students.student import StudentResult, finished, train_students
from dim_ray.core.teachers.ensemble_speed import ensemble_may_pay, ensemble_pays
from dim_ray.core.training.random import derive_seed
from dim_ray.errors import DivergedError
from dim_ray.pipeline.soft_labels import load_labeller, size_of_teachers
from dim_ray.pipeline.workspace import Workspace

__all__ = ["SizedGenerator", "StudentPlan", "group_cells", "selection_cells", "train_cells", "validate"]


@dataclass(frozen=True, kw_only=True)
class StudentPlan:
    """One student to be trained and tested: one row."""

    protocol: Protocol
    images_per_class: int
    architecture: str
    seed: int
    generator: str | None
    """Fingerprint; None for real images, and where it isn't stored yet."""
    recipe: EvaluationConfig
    """How the student is trained and tested, as `EvaluationConfig.recipe` writes it."""
    preset: str
    """What the recipe may call itself."""
    weights: Weights | None = None
    """Which of its weights; None for real images, and where it isn't stored yet."""
    teachers: tuple[str, ...] = ()
    """Fingerprints of the teachers that give soft labels; none with hard labels."""


@dataclass(frozen=True, kw_only=True)
class SizedGenerator:
    """A generator that makes the images of students."""

    network: Generator
    """On the dataset's device."""
    size_bytes: int
    """Of its file; 0 where nobody asks for it."""


def validate(work: Workspace, generator: Generator) -> dict[str, float]:
    """Returns the mean validation accuracy of `selection_cells`, and of several seeds the standard deviation.

    The test split is not used.

    Raises:
        DivergedError: A student diverged.
    """
    num_seeds = work.config.study.selection_seeds
    cells = selection_cells(work, range(num_seeds))
    device_type = work.dataset.train.images.device.type
    stored = SizedGenerator(network=generator, size_bytes=0)
    results: list[StudentResult | DivergedError] = []
    for group in group_cells(work, cells, num_seeds=num_seeds, device_type=device_type):
        results += train_cells(work, group, [stored] * len(group), test=False)
    by_seed: dict[int, list[float]] = {}
    for cell, result in zip(cells, finished(results), strict=True):
        by_seed.setdefault(cell.seed, []).append(result.validation_accuracy)
    means = [statistics.fmean(accuracies) for accuracies in by_seed.values()]
    spread = {"validation_std": statistics.stdev(means)} if num_seeds > 1 else {}
    return {"validation_accuracy": statistics.fmean(means), **spread}


def selection_cells(
    work: Workspace, indices: Iterable[int], generator: str | None = None, weights: Weights | None = None
) -> list[StudentPlan]:
    """Returns on-the-fly students that choose among generators, one an index and IPC.

    Their seeds are their own: a student that chose a generator isn't among those that are reported. They have hard
    labels and no quirks, whatever those that are reported have: a quirk chooses nothing.

    Args:
        work: Data and recipe of the students.
        indices: Each stands for a seed.
        generator: Fingerprint, where it's stored.
        weights: Which of its weights.
    """
    evaluation = replace(work.config.evaluation, preset="corrected", quirks=(), labels="hard")
    return [
        StudentPlan(
            protocol="on_the_fly",
            images_per_class=images_per_class,
            architecture=work.config.networks.students[0],
            seed=derive_seed(evaluation.seed, "selection", index),
            generator=generator,
            weights=weights,
            recipe=evaluation.recipe("on_the_fly", work.dataset.num_channels),
            preset="corrected",
        )
        for images_per_class in work.config.study.selection_images_per_class
        for index in indices
    ]


def group_cells(
    work: Workspace, cells: Sequence[StudentPlan], *, num_seeds: int, device_type: str, num_slots: int = 1
) -> list[list[StudentPlan]]:
    """Divides cells into groups that `train_cells` trains at once, each in the place of its first cell.

    A group differs in nothing but seed, generator and a protocol of the same steps. `evaluation.students_at_once` is
    its largest size; by default `num_seeds` where an ensemble may pay, and less where slots would stay empty.

    Args:
        work: Data and configuration.
        cells: To be grouped.
        num_seeds: Students for each cell of the grid.
        device_type: Where they will be trained, such as ``cpu`` or ``cuda``.
        num_slots: Groups that are trained side by side.
    """
    alike: dict[object, list[StudentPlan]] = {}
    for cell in cells:
        is_full = cell.protocol == "real_full"
        key = (cell.architecture, cell.recipe, cell.images_per_class, is_full, cell.teachers)
        alike.setdefault(key, []).append(cell)
    dataset, groups = work.dataset, []
    for own in alike.values():
        largest = work.config.evaluation.students_at_once
        if largest is None:
            batch_size = _batch_size(own[0], dataset)
            may_pay = ensemble_may_pay(own[0].architecture, dataset, device_type, batch_size=batch_size)
            largest = max(1, min(num_seeds, len(cells) // num_slots)) if may_pay else 1
        groups += [own[start : start + largest] for start in range(0, len(own), largest)]
    return groups


def train_cells(
    work: Workspace, cells: Sequence[StudentPlan], generators: Sequence[SizedGenerator | None], *, test: bool
) -> list[StudentResult | DivergedError]:
    """Trains the students of a group of cells at once, or one by one where that is faster on the dataset's device.

    Args:
        work: Data, and storage of the teachers that give soft labels.
        cells: What `group_cells` puts together.
        generators: Of each cell; None where the protocol needs none.
        test: Whether the test split is used.

    Returns:
        For each cell its student, or the error of one that diverged.
    """
    dataset, first = work.dataset, cells[0]
    recipe, teacher_bytes = first.recipe, size_of_teachers(work, first.teachers)
    labeller = load_labeller(work, first.teachers, recipe.soft_label_temperature)
    class_sizes = class_counts(dataset.train, dataset.num_classes)
    budgets: list[Budget] = []
    image_streams: list[ImageStream] = []
    for cell, stored in zip(cells, generators, strict=True):
        budget = plan_budget(
            recipe,
            cell.protocol,
            num_classes=dataset.num_classes,
            images_per_class=cell.images_per_class,
            image_bytes=dataset.num_channels * dataset.image_size**2,
            generator_bytes=stored.size_bytes if stored else 0,
            real_class_counts=class_sizes,
            teacher_bytes=teacher_bytes,
        )
        image_stream = make_image_stream(
            cell.protocol,
            generator=stored.network if stored else None,
            dataset=dataset,
            images_per_class=cell.images_per_class,
            budget=budget,
            seed=cell.seed,
            uniform_labels="uniform_labels" in recipe.quirks,
            labeller=labeller,
        )
        budgets.append(budget)
        image_streams.append(image_stream)
    is_asked_for = work.config.evaluation.students_at_once is not None
    at_once = is_asked_for or ensemble_pays(first.architecture, dataset, batch_size=_batch_size(first, dataset))
    size = len(cells) if at_once else 1
    results: list[StudentResult | DivergedError] = []
    for start in range(0, len(cells), size):
        own = slice(start, start + size)
        results += train_students(
            recipe,
            image_streams[own],
            dataset,
            architecture=first.architecture,
            budgets=budgets[own],
            seeds=[cell.seed for cell in cells[own]],
            test=test,
        )
    return results


def _batch_size(cell: StudentPlan, dataset: Dataset) -> int:
    return min(cell.recipe.batch_size, cell.images_per_class * dataset.num_classes)
