"""Students of a workspace: their plans, groups that are trained at once, and the validation that chooses a trial."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dim_ray.config import EvaluationConfig, Protocol, Weights
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.data.splits import class_counts
from dim_ray.core.generator.networks import Generator
from dim_ray.core.students.budgets import Budget, plan_budget
from dim_ray.core.students.images import ImageStream, MatchingLatents, TeacherHelp, make_image_stream
from dim_ray.core.students.student import StudentResult, finished, train_students
from dim_ray.core.teachers.ensemble_speed import ensemble_may_pay, ensemble_pays
from dim_ray.core.training.ports import SILENT, PartReporter, Reporter
from dim_ray.core.training.random import derive_seed
from dim_ray.errors import DivergedError
from dim_ray.pipeline.soft_labels import latent_matching, load_labeller, size_of_teachers
from dim_ray.pipeline.workspace import Workspace

__all__ = ["SizedGenerator", "StudentPlan", "group_students", "plan_selection", "train_group", "validate"]


@dataclass(frozen=True, kw_only=True)
class StudentPlan:
    """One planned evaluation: a student to train and test, one row."""

    protocol: Protocol
    images_per_class: int
    architecture: str
    seed: int
    generator: str | None
    """Fingerprint; None for real images, or if it isn't stored yet."""
    recipe: EvaluationConfig
    """Recipe of training and test, from `EvaluationConfig.recipe`."""
    preset: str
    """Name of the recipe, from `EvaluationConfig.preset_name`."""
    weights: Weights | None = None
    """Which of the generator's weights; None where `generator` is."""
    teachers: tuple[str, ...] = ()
    """Fingerprints of the teachers that give soft labels, choose among candidates or match latents, if any do."""


@dataclass(frozen=True, kw_only=True)
class SizedGenerator:
    """A generator on the dataset's device, and the size of its file."""

    network: Generator
    size_bytes: int
    """0 if budgets don't matter."""


def validate(work: Workspace, generator: Generator, reporter: Reporter = SILENT) -> dict[str, float]:
    """Return `plan_selection`'s mean validation accuracy and its deviation over seeds, or raise a DivergedError."""
    num_seeds = work.config.study.selection_seeds
    plans = plan_selection(work, range(num_seeds))
    stored = SizedGenerator(network=generator, size_bytes=0)
    results: list[StudentResult | DivergedError] = []
    groups = group_students(work, plans, num_seeds=num_seeds)
    for index, group in enumerate(groups):
        part = PartReporter(reporter, index, len(groups))
        results += train_group(work, group, [stored] * len(group), test=False, reporter=part)
    by_seed: dict[int, list[float]] = {}
    for plan, result in zip(plans, finished(results), strict=True):
        by_seed.setdefault(plan.seed, []).append(result.validation_accuracy)
    means = [statistics.fmean(accuracies) for accuracies in by_seed.values()]
    spread = {"validation_std": statistics.stdev(means)} if num_seeds > 1 else {}
    return {"validation_accuracy": statistics.fmean(means), **spread}


def plan_selection(
    work: Workspace, indices: Iterable[int], generator: str | None = None, weights: Weights | None = None
) -> list[StudentPlan]:
    """Return on-the-fly students that choose among generators, one per IPC and index.

    They have no teachers, no quirks, and other seeds than the students that are reported. `generator` is a fingerprint,
    if it's stored.
    """
    evaluation = replace(work.config.evaluation, preset="corrected", quirks=(), labels="hard", candidates=1)
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


def group_students(
    work: Workspace,
    plans: Sequence[StudentPlan],
    *,
    num_seeds: int,
    device_type: str | None = None,
    num_slots: int = 1,
) -> list[list[StudentPlan]]:
    """Divide students into groups that `train_group` trains at once, in the order of each group's first.

    Students of a group differ only in seed, generator and protocols of the same steps. A group has at most
    `evaluation.students_at_once` students; by default `num_seeds`, those of a cell, if an ensemble may pay on this type
    of device, such as ``cpu``, or on the dataset's own, and fewer if some of the slots, which train groups side by
    side, would stay empty.
    """
    alike: dict[object, list[StudentPlan]] = {}
    for plan in plans:
        is_full = plan.protocol == "real_full"
        key = (plan.architecture, plan.recipe, plan.images_per_class, is_full, plan.teachers)
        alike.setdefault(key, []).append(plan)
    dataset, groups = work.dataset, []
    device_type = device_type or dataset.device.type
    for own in alike.values():
        largest = work.config.evaluation.students_at_once
        if largest is None:
            batch_size = _batch_size(own[0], dataset)
            may_pay = ensemble_may_pay(own[0].architecture, dataset, device_type, batch_size=batch_size)
            largest = max(1, min(num_seeds, len(plans) // num_slots)) if may_pay else 1
        groups += [own[start : start + largest] for start in range(0, len(own), largest)]
    return groups


def train_group(
    work: Workspace,
    plans: Sequence[StudentPlan],
    generators: Sequence[SizedGenerator | None],
    *,
    test: bool,
    reporter: Reporter = SILENT,
) -> list[StudentResult | DivergedError]:
    """Train a group of `group_students` at once, or one by one if that is faster on the dataset's device.

    Each student has its generator, None if its protocol needs none. Returns the result of each, or its error if it
    diverged.
    """
    first = plans[0]
    recipe, teacher_bytes = first.recipe, size_of_teachers(work, first.teachers)
    dataset = work.dataset.normalised(recipe.normalisation)
    labeller = load_labeller(work, first.teachers, recipe)
    matches: dict[str | None, MatchingLatents] = {}  # by generator
    class_sizes = class_counts(dataset.train, dataset.num_classes)
    budgets: list[Budget] = []
    image_streams: list[ImageStream] = []
    for plan, stored in zip(plans, generators, strict=True):
        if plan.generator is not None and recipe.latent_steps and plan.generator not in matches:
            card = work.artifacts.read_card("generators", plan.generator)
            steps, precision = recipe.latent_steps, recipe.precision
            matches[plan.generator] = latent_matching(
                work.artifacts, card, work.dataset, steps=steps, precision=precision
            )
        budget = plan_budget(
            recipe,
            plan.protocol,
            num_classes=dataset.num_classes,
            images_per_class=plan.images_per_class,
            image_bytes=dataset.num_channels * dataset.image_size**2,
            generator_bytes=stored.size_bytes if stored else 0,
            real_class_counts=class_sizes,
            teacher_bytes=teacher_bytes,
        )
        image_stream = make_image_stream(
            recipe,
            plan.protocol,
            generator=stored.network if stored else None,
            dataset=dataset,
            images_per_class=plan.images_per_class,
            budget=budget,
            seed=plan.seed,
            teachers=TeacherHelp(label=labeller, match=matches.get(plan.generator)),
        )
        budgets.append(budget)
        image_streams.append(image_stream)
    at_once = len(plans) > 1 and (
        work.config.evaluation.students_at_once is not None
        or ensemble_pays(recipe, first.architecture, dataset, batch_size=_batch_size(first, dataset))
    )
    size = len(plans) if at_once else 1
    results: list[StudentResult | DivergedError] = []
    for start in range(0, len(plans), size):
        own = slice(start, start + size)
        results += train_students(
            recipe,
            image_streams[own],
            dataset,
            architecture=first.architecture,
            budgets=budgets[own],
            seeds=[plan.seed for plan in plans[own]],
            test=test,
            reporter=PartReporter(reporter, start // size, math.ceil(len(plans) / size)),
        )
    return results


def _batch_size(plan: StudentPlan, dataset: Dataset) -> int:
    return min(plan.recipe.batch_size, plan.images_per_class * dataset.num_classes)
