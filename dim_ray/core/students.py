"""Students: fresh networks trained on one source of images within a budget, and tested on real images.

contract = budget(config, "on_the_fly", num_classes=10, images_per_class=10, ...)
source = image_source("on_the_fly", generator=generator, dataset=dataset, contract=contract, ...)
result = train_student(config, source, dataset, architecture="convnet3", contract=contract, seed=0)
result.accuracy, result.budget.images_drawn
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dim_ray.config import EvaluationConfig
from dim_ray.core.augment import augment
from dim_ray.core.budgets import Budget
from dim_ray.core.data import Dataset, Normalisation
from dim_ray.core.image_sources import ImageSource
from dim_ray.core.labels import label_loss
from dim_ray.core.networks import build_classifier
from dim_ray.core.pool import accuracy
from dim_ray.core.precision import autocast
from dim_ray.core.random import derive_seed, stream
from dim_ray.errors import DivergedError

__all__ = ["StudentResult", "train_student"]

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
    budget: Budget


def train_student(
    config: EvaluationConfig,
    source: ImageSource,
    dataset: Dataset,
    *,
    architecture: str,
    contract: Budget,
    seed: int,
    test: bool = True,
) -> StudentResult:
    """Trains a fresh student on a source's images and tests it: in eval mode, unless a quirk says otherwise.

    Args:
        config: Optimiser, schedule, augmentation and quirks.
        source: Images of each epoch.
        dataset: Validation and test split, with the normalisation that training images got.
        architecture: Name in the registry.
        contract: Epochs and steps; the source's epochs have to be of its images.
        seed: Of initial weights, order and augmentation.
        test: Whether the test split is used at all; without it both test accuracies are NaN. The search never
            uses it.

    Raises:
        DivergedError: The loss or a weight was not finite at the end.
    """
    started = time.perf_counter()
    device = dataset.train.images.device
    seed = derive_seed(seed, "student")
    network = build_classifier(
        architecture,
        num_channels=dataset.num_channels,
        num_classes=dataset.num_classes,
        image_size=dataset.image_size,
        rng=stream(seed, "weights", device=device),
    )
    optimizer = _make_optimizer(config, network)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(config, step, max(1, contract.optimiser_steps))
    )
    # Without a step there is nothing to wait for: one test says all.
    epochs = contract.epochs if contract.optimiser_steps else 0
    tested_after = {round(epochs * (index + 1) / config.num_test_points) for index in range(config.num_test_points)}
    test_accuracies = [] if test else [math.nan]
    steps_per_epoch = contract.optimiser_steps // contract.epochs
    loss = torch.full((), math.nan, device=device)
    for epoch in range(epochs):
        images, labels = source(epoch)
        order = torch.randperm(len(labels), generator=stream(seed, "order", step=epoch, device=device), device=device)
        network.train()
        for index, batch in enumerate(torch.tensor_split(order, steps_per_epoch)):
            rng = stream(seed, "augment", index, step=epoch)
            with autocast(config.precision, device):
                logits = network(augment(images[batch], config.augmentation, rng))
            loss = label_loss(logits.float(), labels[batch], config.soft_label_temperature)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        if test and epoch + 1 in tested_after and epoch + 1 < epochs:
            test_accuracies.append(_test(network, dataset, config.all_quirks))
    if test:
        test_accuracies.append(_test(network, dataset, config.all_quirks))
    final_loss = float(loss.detach())
    # The loss was measured before the last update, so the weights have to be looked at, too.
    is_finite = math.isfinite(final_loss) and all(bool(tensor.isfinite().all()) for tensor in network.parameters())
    if epochs and not is_finite:
        raise DivergedError(
            f"a {architecture} student diverged within {contract.optimiser_steps} steps (loss {final_loss:g}, or "
            f"weights that are not finite numbers); lower evaluation.learning_rate, now {config.learning_rate:g}."
        )
    best = max(test_accuracies)
    return StudentResult(
        accuracy=best if "best_of_tests" in config.all_quirks else test_accuracies[-1],
        best_test_accuracy=best,
        validation_accuracy=accuracy(network.eval(), dataset.validation, dataset.normalisation),
        final_loss=final_loss,
        wall_seconds=time.perf_counter() - started,
        budget=contract,
    )


def _make_optimizer(config: EvaluationConfig, network: nn.Module) -> torch.optim.Optimizer:
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), rate, config.momentum, weight_decay=decay)
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return adam(network.parameters(), rate, (config.beta1, config.beta2), weight_decay=decay)


def _rate(config: EvaluationConfig, step: int, num_steps: int) -> float:
    """Returns the factor of the learning rate at a step."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / num_steps))
    if config.schedule == "step":
        return config.decay_factor ** sum(step >= point * num_steps for point in config.decay_points)
    return 1.0


def _test(network: nn.Module, dataset: Dataset, quirks: Sequence[str]) -> float:
    is_half = "half_normalised_test" in quirks and dataset.num_channels == 1
    normalisation = _HALF if is_half else dataset.normalisation
    if "train_mode_test" in quirks:
        return _train_mode_accuracy(network.train(), dataset, normalisation)
    return accuracy(network.eval(), dataset.test, normalisation)


@torch.no_grad()
def _train_mode_accuracy(network: nn.Module, dataset: Dataset, normalisation: Normalisation) -> float:
    """Returns the test accuracy where BatchNorm takes its statistics from each batch of test images.

    The running statistics are left as they were: they are the student's, and the validation split's turn comes later.
    """
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    num_batches = math.ceil(len(dataset.test) / _TEST_BATCH)
    correct = torch.zeros((), dtype=torch.int64, device=dataset.test.labels.device)
    batches: zip[tuple[Tensor, Tensor]] = zip(
        torch.tensor_split(dataset.test.images, num_batches),
        torch.tensor_split(dataset.test.labels, num_batches),
        strict=True,
    )
    for images, labels in batches:
        logits = torch.func.functional_call(network, statistics, (normalisation.from_bytes(images),))
        correct += (logits.argmax(dim=1) == labels).sum()
    return float(correct) / len(dataset.test)
