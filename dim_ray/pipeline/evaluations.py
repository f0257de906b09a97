"""The grid of evaluations, and one row for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dim_ray.config import Protocol, Weights, join_quirks
from dim_ray.core.students.student import StudentResult, finished
from dim_ray.errors import DivergedError
from dim_ray.pipeline.generators import load_module, stored_weights, weights_file
from dim_ray.pipeline.rows import circumstances, identity, missing_rows
from dim_ray.pipeline.soft_labels import labelling_teachers
from dim_ray.pipeline.students import SizedGenerator, StudentPlan, train_cells
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import EVALUATION_TABLE
from dim_ray.store.writer import Writer

__all__ = [
    "check_all_measured",
    "evaluate",
    "evaluate_group",
    "load_generators",
    "plan_evaluations",
    "weights_in_use",
]


def plan_evaluations(work: Workspace, generator: str) -> list[StudentPlan]:
    """Returns the grid protocol x IPC x architecture x seed, dearest first, so that no core waits at the end.

    `real_full` has no IPC of its own, and comes once for each architecture and seed, before the others.

    Raises:
        ConfigError: Students are to have soft labels, and the generator has no teachers to give them.
    """
    evaluation, num_channels = work.config.evaluation, work.dataset.num_channels
    weights, teachers = weights_in_use(work, generator), labelling_teachers(work, generator)
    sized: list[Protocol] = [protocol for protocol in evaluation.protocols if protocol != "real_full"]
    grid = [(images_per_class, sized) for images_per_class in sorted(evaluation.images_per_class, reverse=True)]
    if "real_full" in evaluation.protocols:
        grid.insert(0, (len(work.dataset.train) // work.dataset.num_classes, ["real_full"]))
    return [
        StudentPlan(
            protocol=protocol,
            images_per_class=images_per_class,
            architecture=architecture,
            seed=evaluation.seed + index,
            generator=None if protocol.startswith("real_") else generator,
            weights=None if protocol.startswith("real_") else weights,
            recipe=evaluation.recipe(protocol, num_channels),
            preset=evaluation.preset_name(protocol, num_channels),
            teachers=teachers,
        )
        for images_per_class, protocols in grid
        for architecture in work.config.networks.students
        for protocol in protocols
        for index in range(evaluation.num_seeds)
    ]


def evaluate(work: Workspace, cell: StudentPlan) -> dict[str, Any]:
    """Trains and tests one student, writes its row and returns it."""
    [row] = evaluate_group(work, [cell])
    return row


def evaluate_group(work: Workspace, cells: Sequence[StudentPlan]) -> list[dict[str, Any]]:
    """Trains and tests students at once, writes their rows and returns them: what `evaluate` gives for each.

    Args:
        work: Data and storage.
        cells: What `group_cells` puts together.

    Raises:
        DivergedError: A student diverged; those that didn't have their rows.
    """
    results = train_cells(work, cells, load_generators(work, cells), test=True)
    rows = [
        _row(work, cell, result)
        for cell, result in zip(cells, results, strict=True)
        if not isinstance(result, DivergedError)
    ]
    if rows:
        Writer(work.config.storage.root).append_evaluations(rows)
    finished(results)
    return rows


def check_all_measured(work: Workspace, planned: Sequence[StudentPlan]) -> None:
    """Checks that students have rows, once all of them were trained: those that diverged have none.

    Args:
        work: Data and storage.
        planned: The whole grid.

    Raises:
        DivergedError: Some diverged; all of them are named.
    """
    diverged = missing_rows(work, EVALUATION_TABLE, planned)
    if not diverged:
        return
    seeds: dict[str, list[int]] = {}
    for cell in diverged:
        quirks = f", {join_quirks(cell.recipe.quirks)}" if cell.recipe.quirks else ""
        name = f"{cell.protocol}, IPC {cell.images_per_class}, {cell.architecture}{quirks}"
        seeds.setdefault(name, []).append(cell.seed)
    named = "; ".join(f"{name}, seed {' and '.join(map(str, own))}" for name, own in seeds.items())
    rates = " or ".join(f"{rate:g}" for rate in sorted({cell.recipe.learning_rate for cell in diverged}))
    generator = next((cell.generator for cell in planned if cell.generator), None)
    measured = f" in python -m dim_ray.evaluate {work.artifacts.uri('generators', generator)}" if generator else ""
    raise DivergedError(
        f"{len(diverged)} of {len(planned)} students diverged and wrote no row ({named}); all others have theirs. With "
        f"the same seed one diverges again: lower --evaluation.learning_rate, now {rates}, or leave these out with "
        f"--protocol, --ipc or --architecture{measured}."
    )


def load_generators(work: Workspace, cells: Sequence[StudentPlan]) -> list[SizedGenerator | None]:
    """Returns the generator of each cell, each read once; None for real images."""
    named = {(cell.generator, cell.weights) for cell in cells}
    loaded = {name: _load(work, *name) for name in named}
    return [loaded[cell.generator, cell.weights] for cell in cells]


def weights_in_use(work: Workspace, generator: str) -> Weights:
    """Returns which weights of a generator are measured: those that are wanted, where it has them."""
    wanted = work.config.evaluation.weights
    if work.artifacts.exists("generators", generator):
        return stored_weights(work.artifacts.read_card("generators", generator), wanted)
    return wanted if work.config.generator.ema_decay else "raw"  # rows may outlive their generator


def _load(work: Workspace, generator: str | None, weights: Weights | None) -> SizedGenerator | None:
    if generator is None:
        return None
    weights = weights or "raw"
    card = work.artifacts.read_card("generators", generator)
    size_bytes = int(card["files"][weights_file(weights)]["size_bytes"])
    return SizedGenerator(network=load_module(work, generator, weights), size_bytes=size_bytes)


def _row(work: Workspace, cell: StudentPlan, result: StudentResult) -> dict[str, Any]:
    budget = result.budget
    return {
        **identity(work, EVALUATION_TABLE, cell),
        "selection": "test" if "best_of_tests" in cell.recipe.quirks else "validation",
        "accuracy": result.accuracy,
        "best_test_accuracy": result.best_test_accuracy,
        "validation_accuracy": result.validation_accuracy,
        "images_drawn": budget.images_drawn,
        "distinct_images": budget.distinct_images,
        "optimiser_steps": budget.optimiser_steps,
        "batch_size": budget.batch_size,
        "epochs": budget.epochs,
        "stored_bytes": budget.stored_bytes,
        "optimizer": cell.recipe.optimizer,
        "learning_rate": cell.recipe.learning_rate,
        "schedule": cell.recipe.schedule,
        "augmentation": cell.recipe.augmentation,
        "final_loss": None if math.isnan(result.final_loss) else result.final_loss,
        **circumstances(work, cell, result.wall_seconds),
    }
