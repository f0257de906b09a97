"""Students of a workspace: one cell of the evaluation grid, and the validation that chooses hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass

from dim_ray.config import Protocol, Weights
from dim_ray.core.evaluation import StudentResult, budget, image_source, train_student
from dim_ray.core.generator import Generator
from dim_ray.core.random import derive_seed
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
    weights: Weights | None = None
    """Which of its weights; None for real images, and where it isn't stored yet."""


def validate(work: Workspace, generator: Generator) -> dict[str, float]:
    """Returns the mean validation accuracy of on-the-fly students; the test split is not used.

    Their seeds are their own: a student that chose a generator isn't among those that are reported.
    """
    study = work.config.study
    total = 0.0
    for index in range(study.selection_seeds):
        cell = Evaluation(
            protocol="on_the_fly",
            images_per_class=study.selection_images_per_class,
            architecture=work.config.networks.students[0],
            seed=derive_seed(work.config.evaluation.seed, "selection", index),
            generator=None,
        )
        total += train_cell(work, cell, generator, generator_bytes=0, test=False).validation_accuracy
    return {"validation_accuracy": total / study.selection_seeds}


def train_cell(
    work: Workspace, cell: Evaluation, generator: Generator | None, *, generator_bytes: int, test: bool
) -> StudentResult:
    """Trains the student of one cell.

    Args:
        work: Data, budget and recipe.
        cell: Protocol, IPC, architecture and seed.
        generator: For the protocols that need one.
        generator_bytes: Size of its file.
        test: Whether the test split is used.
    """
    config, dataset = work.config.evaluation, work.dataset
    contract = budget(
        config,
        cell.protocol,
        num_classes=dataset.num_classes,
        images_per_class=cell.images_per_class,
        image_bytes=dataset.num_channels * dataset.image_size**2,
        generator_bytes=generator_bytes,
        real_class_counts=dataset.train.labels.bincount(minlength=dataset.num_classes).tolist(),
    )
    source = image_source(
        cell.protocol,
        generator=generator,
        dataset=dataset,
        images_per_class=cell.images_per_class,
        epochs=contract.epochs,
        seed=cell.seed,
    )
    return train_student(
        config, source, dataset, architecture=cell.architecture, contract=contract, seed=cell.seed, test=test
    )
