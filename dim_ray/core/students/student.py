"""Students: fresh networks trained on one image stream each within a budget, and tested on real images.

budget = plan_budget(config, "on_the_fly", num_classes=10, images_per_class=10, ...)
image_stream = make_image_stream("on_the_fly", generator=generator, dataset=dataset, budget=budget, ...)
result = train_student(config, image_stream, dataset, architecture="convnet3", budget=budget, seed=0)
result.accuracy, result.budget.images_drawn

`train_students` trains several at once, as one batched ensemble.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dim_ray.config import EvaluationConfig
from dim_ray.core.data.dataset import Dataset, Normalisation
from dim_ray.core.networks.classifiers import accuracies, build_network
from dim_ray.core.networks.ensemble import Members, stack, train_members
from dim_ray.core.students.budgets import Budget
from dim_ray.core.students.images import ImageStream
from dim_ray.core.training.random import derive_seed, stream
from dim_ray.errors import DivergedError

__all__ = ["StudentResult", "finished", "student_optimizer", "train_student", "train_students"]

_HALF = Normalisation(mean=(0.5,), std=(0.5,))  # of test images, under the quirk half_normalised_test
_TEST_BATCH = 1000  # largest number of test images whose statistics are taken together, under train_mode_test


@dataclass(frozen=True, kw_only=True)
class StudentResult:
    """One student's measurements; accuracies in [0, 1]."""

    accuracy: float
    """On the test split, after the last epoch; under the quirk best_of_tests, best_test_accuracy."""
    best_test_accuracy: float
    """Highest of the periodic tests: what the literature often reports, chosen on the test split."""
    validation_accuracy: float
    """On the validation split, after the last epoch; no quirk touches how it is measured."""
    final_loss: float
    """NaN where there was no step."""
    wall_seconds: float
    """Of its training and tests; of an ensemble, an equal share."""
    budget: Budget


def train_student(
    config: EvaluationConfig,
    image_stream: ImageStream,
    dataset: Dataset,
    *,
    architecture: str,
    budget: Budget,
    seed: int,
    test: bool = True,
) -> StudentResult:
    """Train a fresh student on an image stream and test it: in eval mode, unless a quirk says otherwise.

    Args:
        config: Optimiser, schedule, augmentation and quirks.
        image_stream: Images of each epoch.
        dataset: Validation and test split, with the normalisation that training images got.
        architecture: Name in the registry.
        budget: Epochs and steps; the stream's epochs have to be of its images.
        seed: Of initial weights, order and augmentation.
        test: Whether the test split is used at all; without it both test accuracies are NaN. The search never
            uses it.

    Raises:
        DivergedError: The loss or a weight was not finite at the end.
    """
    [result] = finished(
        train_students(
            config, [image_stream], dataset, architecture=architecture, budgets=[budget], seeds=[seed], test=test
        )
    )
    return result


def train_students(
    config: EvaluationConfig,
    image_streams: Sequence[ImageStream],
    dataset: Dataset,
    *,
    architecture: str,
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    test: bool = True,
) -> list[StudentResult | DivergedError]:
    """Trains several fresh students at once, each as `train_student` would: equal to it within rounding.

    Args:
        config: Optimiser, schedule, augmentation and quirks of all of them.
        image_streams: Images of each epoch, one stream per student.
        dataset: Validation and test split, with the normalisation that training images got.
        architecture: Name in the registry, of all of them.
        budgets: Budget of each student; epochs, steps and images of an epoch have to be the same.
        seeds: Of each student's initial weights, order and augmentation.
        test: Whether the test split is used at all.

    Returns:
        For each student its result, or the error of one whose loss or weights were not finite at the end, which
        leaves the others as they are.

    Raises:
        ValueError: The budgets have different epochs or steps.
    """
    started = time.perf_counter()
    if len({(own.epochs, own.optimiser_steps, own.images_per_epoch) for own in budgets}) != 1:
        raise ValueError("students that are trained at once need the same epochs, steps and images of an epoch")
    student_seeds = [derive_seed(seed, "student") for seed in seeds]
    members = stack([_build(architecture, dataset, seed) for seed in student_seeds])
    losses, tests = _train(config, members, image_streams, dataset, budgets[0], student_seeds, test=test)
    members.set_mode(training=False)
    validation_accuracies = accuracies(members.logits, dataset.validation, dataset.normalisation)
    are_finite = members.are_finite()
    wall_seconds = (time.perf_counter() - started) / len(seeds)
    results: list[StudentResult | DivergedError] = []
    for index, (seed, budget) in enumerate(zip(seeds, budgets, strict=True)):
        # The loss was measured before the last update, so the weights have to be looked at, too.
        if budget.optimiser_steps and not (math.isfinite(losses[index]) and are_finite[index]):
            results.append(_diverged(config, architecture, seed, budget, losses[index]))
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
    """Returns what `train_students` gave where no student diverged.

    Raises:
        DivergedError: The first one.
    """
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
) -> tuple[list[float], list[list[float]]]:
    """Trains members and tests them on the way; returns their last losses, and their accuracies at each test."""
    device = dataset.train.images.device
    optimizer = student_optimizer(config, members.parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(config, step, max(1, budget.optimiser_steps))
    )
    # Without a step there is nothing to wait for: one test says all.
    epochs = budget.epochs if budget.optimiser_steps else 0
    tested_after = {round(epochs * (index + 1) / config.num_test_points) for index in range(config.num_test_points)}
    tests = []
    steps_per_epoch = budget.optimiser_steps // budget.epochs
    losses = torch.full((len(seeds),), math.nan, device=device)
    for epoch in range(epochs):
        drawn = [image_stream(epoch) for image_stream in image_streams]
        orders = torch.stack([_order(budget.images_per_epoch, seed, epoch, device) for seed in seeds])
        members.set_mode(training=True)
        for index, batches in enumerate(torch.tensor_split(orders, steps_per_epoch, dim=1)):
            own = list(zip(drawn, batches, strict=True))
            images = torch.cat([images[batch] for (images, _), batch in own])
            labels = torch.cat([labels[batch] for (_, labels), batch in own])
            rngs = [stream(seed, "augment", index, step=epoch) for seed in seeds]
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
        if test and epoch + 1 in tested_after and epoch + 1 < epochs:
            tests.append(_test(members, dataset, config.all_quirks))
    if test:
        tests.append(_test(members, dataset, config.all_quirks))
    final_losses: list[float] = losses.tolist()
    return final_losses, tests


def _build(architecture: str, dataset: Dataset, seed: int) -> nn.Module:
    rng = stream(seed, "weights", device=dataset.train.images.device)
    return build_network(architecture, dataset, rng)


def _order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    return torch.randperm(count, generator=stream(seed, "order", step=epoch, device=device), device=device)


def _diverged(config: EvaluationConfig, architecture: str, seed: int, budget: Budget, loss: float) -> DivergedError:
    return DivergedError(
        f"a {architecture} student diverged within {budget.optimiser_steps} steps (seed {seed}, loss {loss:g}, or "
        f"weights that are not finite numbers); lower evaluation.learning_rate, now {config.learning_rate:g}."
    )


def student_optimizer(config: EvaluationConfig, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Returns the optimiser of a recipe over parameters: of one student, or of several that are stacked."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, config.momentum, weight_decay=decay, fused=True)
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(parameters, rate, (config.beta1, config.beta2), weight_decay=decay, fused=True)


def _rate(config: EvaluationConfig, step: int, num_steps: int) -> float:
    """Returns the factor of the learning rate at a step."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / num_steps))
    if config.schedule == "step":
        return config.decay_factor ** sum(step >= point * num_steps for point in config.decay_points)
    return 1.0


def _test(members: Members, dataset: Dataset, quirks: Sequence[str]) -> list[float]:
    """Returns the accuracy of each member on the test split."""
    is_half = "half_normalised_test" in quirks and dataset.num_channels == 1
    normalisation = _HALF if is_half else dataset.normalisation
    if "train_mode_test" in quirks:
        return _train_mode_accuracies(members, dataset, normalisation)
    members.set_mode(training=False)
    return accuracies(members.logits, dataset.test, normalisation)


@torch.no_grad()
def _train_mode_accuracies(members: Members, dataset: Dataset, normalisation: Normalisation) -> list[float]:
    """Returns the test accuracies where BatchNorm takes its statistics from each batch of test images.

    The running statistics are left as they were: they are the student's, and the validation split's turn comes later.
    """
    statistics = [buffer.clone() for buffer in members.buffers]
    members.set_mode(training=True)
    num_batches = math.ceil(len(dataset.test) / _TEST_BATCH)
    correct = torch.zeros((), dtype=torch.int64, device=dataset.test.labels.device)
    batches: zip[tuple[Tensor, Tensor]] = zip(
        torch.tensor_split(dataset.test.images, num_batches),
        torch.tensor_split(dataset.test.labels, num_batches),
        strict=True,
    )
    for images, labels in batches:
        correct = correct + (members.logits(normalisation.from_bytes(images)).argmax(dim=2) == labels).sum(dim=1)
    for buffer, before in zip(members.buffers, statistics, strict=True):
        buffer.copy_(before)
    return [count / len(dataset.test) for count in correct.tolist()]
