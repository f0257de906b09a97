"""Students: fresh networks, each trained on an image stream within a budget and tested on real images.

budget = plan_budget(config, "on_the_fly", num_classes=10, images_per_class=10, ...)
image_stream = make_image_stream("on_the_fly", generator=generator, dataset=dataset, budget=budget, ...)
[result] = train_students(config, [image_stream], dataset, architecture="convnet3", budgets=[budget], seeds=[0])
result.accuracy, result.budget.images_drawn
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dim_ray.config import EvaluationConfig
from dim_ray.core.data.dataset import Dataset, Normalisation
from dim_ray.core.networks.classifiers import accuracies, build_network
from dim_ray.core.networks.ensemble import Members, stack, train_members
from dim_ray.core.students.budgets import Budget
from dim_ray.core.students.images import ImageStream
from dim_ray.core.training.ports import SILENT, Pace, Reporter
from dim_ray.core.training.random import derive_seed, stream
from dim_ray.errors import DivergedError

__all__ = ["StudentResult", "finished", "student_optimizer", "train_students"]

_HALF = Normalisation(mean=(0.5,), std=(0.5,))  # for the quirk half_normalised_test


@dataclass(frozen=True, kw_only=True)
class StudentResult:
    """One student's measurements; accuracies in [0, 1]."""

    accuracy: float
    """Test accuracy after the last epoch; under the quirk best_of_tests, best_test_accuracy."""
    best_test_accuracy: float
    """Highest of the periodic tests, as the literature often reports it: chosen on the test split."""
    validation_accuracy: float
    """Validation accuracy after the last epoch; no quirk changes how it is measured."""
    final_loss: float
    """Loss of the last step; NaN if there was no step."""
    wall_seconds: float
    """Time of training and tests; in an ensemble, an equal share."""
    budget: Budget


def train_students(
    config: EvaluationConfig,
    image_streams: Sequence[ImageStream],
    dataset: Dataset,
    *,
    architecture: str,
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    test: bool = True,
    reporter: Reporter = SILENT,
) -> list[StudentResult | DivergedError]:
    """Train fresh students at once, as one batched ensemble, and test them.

    Each becomes what it would be by itself, within rounding. All budgets have the same epochs, steps and images per
    epoch, and `dataset` the normalisation of the training images. Without `test`, both test accuracies are NaN.

    Returns:
        The result of each student, or its error if its loss or weights were not finite at the end.
    """
    started = time.perf_counter()
    assert len({(own.epochs, own.optimiser_steps, own.images_per_epoch) for own in budgets}) == 1
    student_seeds = [derive_seed(seed, "student") for seed in seeds]
    device = dataset.device
    weights = [stream(seed, "weights", device=device) for seed in student_seeds]
    members = stack([build_network(architecture, dataset, rng) for rng in weights])
    losses, tests = _train(
        config, members, image_streams, dataset, budgets[0], student_seeds, test=test, reporter=reporter
    )
    members.set_mode(training=False)
    logits = partial(members.logits, precision=config.precision)
    validation_accuracies = accuracies(logits, dataset.validation, dataset.normalisation)
    are_finite = members.are_finite()
    wall_seconds = (time.perf_counter() - started) / len(seeds)
    results: list[StudentResult | DivergedError] = []
    for index, (seed, budget) in enumerate(zip(seeds, budgets, strict=True)):
        # The loss is from before the last update, so the weights are checked too.
        if budget.optimiser_steps and not (math.isfinite(losses[index]) and are_finite[index]):
            results.append(
                DivergedError(
                    f"a {architecture} student diverged within {budget.optimiser_steps} steps (seed {seed}, loss "
                    f"{losses[index]:g}, or weights that are not finite numbers); lower evaluation.learning_rate, now "
                    f"{config.learning_rate:g}."
                )
            )
            continue
        own = [measured[index] for measured in tests] if test else [math.nan]
        results.append(
            StudentResult(
                accuracy=max(own) if "best_of_tests" in config.all_quirks else own[-1],
                best_test_accuracy=max(own),
                validation_accuracy=validation_accuracies[index],
                final_loss=losses[index],
                wall_seconds=wall_seconds,
                budget=budget,
            )
        )
    return results


def finished(results: Sequence[StudentResult | DivergedError]) -> list[StudentResult]:
    """Return the results if no student diverged, and raise the first one's DivergedError otherwise."""
    students = []
    for result in results:
        if isinstance(result, DivergedError):
            raise result
        students.append(result)
    return students


def _train(
    config: EvaluationConfig,
    members: Members,
    image_streams: Sequence[ImageStream],
    dataset: Dataset,
    budget: Budget,
    seeds: Sequence[int],
    *,
    test: bool,
    reporter: Reporter,
) -> tuple[list[float], list[list[float]]]:
    """Train members; return their last losses, and their accuracies at each test."""
    device = dataset.device
    optimizer = student_optimizer(config, members.parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(config, step, max(1, budget.optimiser_steps))
    )
    epochs = budget.epochs if budget.optimiser_steps else 0
    tested_after = {round(epochs * (index + 1) / config.num_test_points) for index in range(config.num_test_points)}
    tests = []
    steps_per_epoch = budget.optimiser_steps // budget.epochs
    losses, pace = torch.full((len(seeds),), math.nan, device=device), Pace()
    for epoch in range(epochs):
        drawn = [image_stream(epoch) for image_stream in image_streams]
        orders = torch.stack([_order(budget.images_per_epoch, seed, epoch, device) for seed in seeds])
        members.set_mode(training=True)
        for index, batches in enumerate(torch.tensor_split(orders, steps_per_epoch, dim=1)):
            own = list(zip(drawn, batches, strict=True))
            images = torch.cat([images[batch] for (images, _), batch in own])
            labels = torch.cat([labels[batch] for (_, labels), batch in own])
            rngs = [stream(seed, "augment", index, step=epoch, device=device) for seed in seeds]
            losses = train_members(
                members,
                optimizer,
                images,
                labels,
                rngs,
                augmentation=config.augmentation,
                precision=config.precision,
                temperature=config.soft_label_temperature,
            )
            schedule.step()
            if pace.is_due():
                reporter.advance(epoch + (index + 1) / steps_per_epoch, epochs)
        if test and epoch + 1 in tested_after and epoch + 1 < epochs:
            tests.append(_test(members, dataset, config))
    if test:
        tests.append(_test(members, dataset, config))
    final_losses: list[float] = losses.tolist()
    return final_losses, tests


def _order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=stream(seed, "order", step=epoch, device=device), device=device)


def student_optimizer(config: EvaluationConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, config.momentum, weight_decay=decay, fused=True)
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(parameters, rate, (config.beta1, config.beta2), weight_decay=decay, fused=True)


def _rate(config: EvaluationConfig, step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at a step."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / num_steps))
    if config.schedule == "step":
        return config.decay_factor ** sum(step >= point * num_steps for point in config.decay_points)
    return 1.0


@torch.no_grad()
def _test(members: Members, dataset: Dataset, config: EvaluationConfig) -> list[float]:
    is_half = "half_normalised_test" in config.all_quirks and dataset.num_channels == 1
    normalisation = _HALF if is_half else dataset.normalisation
    logits = partial(members.logits, precision=config.precision)
    if "train_mode_test" not in config.all_quirks:
        members.set_mode(training=False)
        return accuracies(logits, dataset.test, normalisation)
    # BatchNorm in training mode; its running statistics are restored afterwards.
    statistics = [buffer.clone() for buffer in members.buffers]
    members.set_mode(training=True)
    num_batches = max(1, len(dataset.test) // config.batch_size)  # no smaller ones: a single image has no statistics
    measured = accuracies(logits, dataset.test, normalisation, num_batches=num_batches)
    for buffer, before in zip(members.buffers, statistics, strict=True):
        buffer.copy_(before)
    return measured
