"""The grid of evaluations: one student and one row each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dim_ray.config import Protocol, Weights, join_quirks
from dim_ray.core.students.student import StudentResult, finished
from dim_ray.core.training.ports import SILENT, Reporter
from dim_ray.errors import DivergedError, listed
from dim_ray.pipeline.generators import load_module, stored_weights, weights_file
from dim_ray.pipeline.rows import circumstances, key_columns, missing_rows
from dim_ray.pipeline.soft_labels import labelling_teachers
from dim_ray.pipeline.students import SizedGenerator, StudentPlan, train_group
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.schema import EVALUATION_TABLE
from dim_ray.store.writer import Writer

__all__ = ["check_all_measured", "evaluate_group", "load_generators", "plan_evaluations", "weights_in_use"]


def plan_evaluations(work: Workspace, generator: str) -> list[StudentPlan]:
    """Return a generator's grid protocol x IPC x architecture x seed, dearest first, so that no core waits at the end.

    `real_full` has no IPC of its own: it comes first, once for each architecture and seed.

    Raises:
        ConfigError: Students need teachers, and the generator has none, or the storage lacks them.
    """
    evaluation, num_channels = work.config.evaluation, work.dataset.num_channels
    weights, teachers = weights_in_use(work, generator), labelling_teachers(work, generator)
    sized: list[Protocol] = [protocol for protocol in evaluation.protocols if protocol != "real_full"]
    grid = [(images_per_class, sized) for images_per_class in sorted(evaluation.images_per_class, reverse=True)]
    if "real_full" in evaluation.protocols:
        grid.insert(0, (len(work.dataset.train) // work.dataset.num_classes, ["real_full"]))
    recipes = {protocol: evaluation.recipe(protocol, num_channels) for protocol in evaluation.protocols}
    return [
        StudentPlan(
            protocol=protocol,
            images_per_class=images_per_class,
            architecture=architecture,
            seed=evaluation.seed + index,
            generator=None if protocol.startswith("real_") else generator,
            weights=None if protocol.startswith("real_") else weights,
            recipe=recipes[protocol],
            preset=evaluation.preset_name(protocol, num_channels),
            teachers=teachers if recipes[protocol].asks_teachers else (),
        )
        for images_per_class, protocols in grid
        for architecture in work.config.networks.students
        for protocol in protocols
        for index in range(evaluation.num_seeds)
    ]


def evaluate_group(work: Workspace, plans: Sequence[StudentPlan], reporter: Reporter = SILENT) -> list[dict[str, Any]]:
    """Train and test a group of `group_students`; write its rows, and return them or raise the first DivergedError."""
    results = train_group(work, plans, load_generators(work, plans), test=True, reporter=reporter)
    rows = [
        _row(work, plan, result)
        for plan, result in zip(plans, results, strict=True)
        if not isinstance(result, DivergedError)
    ]
    if rows:
        Writer(work.config.storage.root).append_evaluations(rows)
    finished(results)
    return rows


def check_all_measured(work: Workspace, planned: Sequence[StudentPlan]) -> None:
    """Raise a DivergedError that names all students of a trained grid without a row, if there are any."""
    diverged = missing_rows(work, EVALUATION_TABLE, planned)
    if not diverged:
        return
    seeds: dict[str, list[int]] = {}
    for plan in diverged:
        quirks = f", {join_quirks(plan.recipe.quirks)}" if plan.recipe.quirks else ""
        name = f"{plan.protocol}, IPC {plan.images_per_class}, {plan.architecture}{quirks}"
        seeds.setdefault(name, []).append(plan.seed)
    named = listed((f"{name}, seed {listed(own, between=' and ')}" for name, own in seeds.items()), between="; ")
    rates = " or ".join(f"{rate:g}" for rate in sorted({plan.recipe.learning_rate for plan in diverged}))
    generator = next((plan.generator for plan in planned if plan.generator), None)
    measured = f" in python -m dim_ray.evaluate {work.artifacts.uri('generators', generator)}" if generator else ""
    raise DivergedError(
        f"{len(diverged)} of {len(planned)} students diverged and wrote no row ({named}); all others have theirs. With "
        f"the same seed one diverges again: lower --evaluation.learning_rate, now {rates}, or leave these out with "
        f"--protocol, --ipc or --architecture{measured}."
    )


def load_generators(work: Workspace, plans: Sequence[StudentPlan]) -> list[SizedGenerator | None]:
    """Return the generator of each student, each read once; None for real images."""
    loaded: dict[tuple[str | None, Weights | None], SizedGenerator] = {}
    for name, weights in {(plan.generator, plan.weights or "raw") for plan in plans}:
        if name is not None:
            file = work.artifacts.read_card("generators", name)["files"][weights_file(weights)]
            network = load_module(work, name, weights)
            loaded[name, weights] = SizedGenerator(network=network, size_bytes=int(file["size_bytes"]))
    return [loaded.get((plan.generator, plan.weights or "raw")) for plan in plans]


def weights_in_use(work: Workspace, generator: str) -> Weights:
    """Return which weights of a generator are measured: the configured ones if it has them."""
    wanted = work.config.evaluation.weights
    if work.artifacts.exists("generators", generator):
        return stored_weights(work.artifacts.read_card("generators", generator), wanted)
    return wanted if work.config.generator.ema_decay else "raw"  # rows may outlive their generator


def _row(work: Workspace, plan: StudentPlan, result: StudentResult) -> dict[str, Any]:
    budget = result.budget
    return {
        **key_columns(work, EVALUATION_TABLE, plan),
        "selection": "test" if "best_of_tests" in plan.recipe.quirks else "validation",
        "accuracy": result.accuracy,
        "best_test_accuracy": result.best_test_accuracy,
        "validation_accuracy": result.validation_accuracy,
        "images_drawn": budget.images_drawn,
        "candidates": plan.recipe.candidates if plan.recipe.candidates > 1 else None,
        "latent_steps": plan.recipe.latent_steps or None,
        "distinct_images": budget.distinct_images,
        "optimiser_steps": budget.optimiser_steps,
        "batch_size": budget.batch_size,
        "epochs": budget.epochs,
        "stored_bytes": budget.stored_bytes,
        "optimizer": plan.recipe.optimizer,
        "learning_rate": plan.recipe.learning_rate,
        "schedule": plan.recipe.schedule,
        "augmentation": plan.recipe.augmentation,
        "final_loss": None if math.isnan(result.final_loss) else result.final_loss,
        **circumstances(work, plan, result.wall_seconds),
    }
