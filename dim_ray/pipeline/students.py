"""Students of a workspace: one cell of the evaluation grid, and the validation that chooses hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dim_ray.config import EvaluationConfig, Protocol, Weights
from dim_ray.core.budgets import budget
from dim_ray.core.generator import Generator
from dim_ray.core.image_sources import image_source
from dim_ray.core.random import derive_seed
from dim_ray.core.splits import class_counts
from dim_ray.core.students import StudentResult, train_student
from dim_ray.pipeline.labels import load_labeller, size_of_teachers
from dim_ray.pipeline.workspace import Workspace

__all__ = ["Evaluation", "train_cell", "validate"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
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


def validate(work: Workspace, generator: Generator) -> dict[str, float]:
    """Returns the mean validation accuracy of on-the-fly students; the test split is not used.

    Their seeds are their own: a student that chose a generator isn't among those that are reported. They have hard
    labels and no quirks, whatever those that are reported have: a quirk chooses nothing.
    """
    study = work.config.study
    evaluation = replace(work.config.evaluation, preset="corrected", quirks=(), labels="hard")
    total = 0.0
    for index in range(study.selection_seeds):
        cell = Evaluation(
            protocol="on_the_fly",
            images_per_class=study.selection_images_per_class,
            architecture=work.config.networks.students[0],
            seed=derive_seed(evaluation.seed, "selection", index),
            generator=None,
            recipe=evaluation.recipe("on_the_fly", work.dataset.num_channels),
            preset="corrected",
        )
        total += train_cell(work, cell, generator, generator_bytes=0, test=False).validation_accuracy
    return {"validation_accuracy": total / study.selection_seeds}


def train_cell(
    work: Workspace, cell: Evaluation, generator: Generator | None, *, generator_bytes: int, test: bool
) -> StudentResult:
    """Trains the student of one cell.

    Args:
        work: Data, and storage of the teachers that give soft labels.
        cell: Protocol, IPC, architecture, seed, recipe and labels.
        generator: For the protocols that need one.
        generator_bytes: Size of its file.
        test: Whether the test split is used.
    """
    recipe, dataset = cell.recipe, work.dataset
    contract = budget(
        recipe,
        cell.protocol,
        num_classes=dataset.num_classes,
        images_per_class=cell.images_per_class,
        image_bytes=dataset.num_channels * dataset.image_size**2,
        generator_bytes=generator_bytes,
        real_class_counts=class_counts(dataset.train, dataset.num_classes),
        teacher_bytes=size_of_teachers(work, cell.teachers),
    )
    source = image_source(
        cell.protocol,
        generator=generator,
        dataset=dataset,
        images_per_class=cell.images_per_class,
        contract=contract,
        seed=cell.seed,
        uniform_labels="uniform_labels" in recipe.quirks,
        labeller=load_labeller(work, cell.teachers, recipe.soft_label_temperature),
    )
    return train_student(
        recipe, source, dataset, architecture=cell.architecture, contract=contract, seed=cell.seed, test=test
    )
