"""Students: fresh networks trained on one source of images within a budget, and tested on real images.

    contract = budget(config, "on_the_fly", num_classes=10, images_per_class=10, ...)
    source = image_source("on_the_fly", generator=generator, dataset=dataset, images_per_class=10, ...)
    result = train_student(config, source, dataset, architecture="convnet3", contract=contract, seed=0)
    result.accuracy, result.budget.images_drawn

Four protocols decide where the images come from: generated ones on the fly or as a fixed set, and real ones at the
same budgets, which are the ceiling and the floor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dim_ray.config import EvaluationConfig
from dim_ray.config import Protocol as ProtocolName
from dim_ray.core.augment import augment
from dim_ray.core.data import Dataset, Split, to_bytes
from dim_ray.core.generator import Generator
from dim_ray.core.networks import build_classifier
from dim_ray.core.pool import accuracy
from dim_ray.core.precision import autocast
from dim_ray.core.random import derive_seed, stream
from dim_ray.errors import DivergedError

__all__ = ["Budget", "ImageSource", "StudentResult", "balanced_labels", "budget", "image_source", "train_student"]

_GENERATION_BATCH = 500  # images generated at a time: bounds memory

ImageSource = Callable[[int], tuple[Tensor, Tensor]]
"""Epoch number to normalised images (IPC * K, C, H, W) and labels (IPC * K,), on the dataset's device."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a student may use."""

    images_drawn: int
    distinct_images: int
    optimiser_steps: int
    batch_size: int
    """Images of the largest step."""
    epochs: int
    stored_bytes: int
    """Of the generator's file, or of the real or fixed images as uint8."""


@dataclass(frozen=True, kw_only=True)
class StudentResult:
    """One student's measurements; accuracies in [0, 1]."""

    accuracy: float
    """On the test split, after the last epoch."""
    best_test_accuracy: float
    """Highest of the periodic tests: what the literature often reports, chosen on the test split."""
    validation_accuracy: float
    """On the validation split, after the last epoch."""
    final_loss: float
    wall_seconds: float
    budget: Budget


def budget(
    config: EvaluationConfig,
    protocol: ProtocolName,
    *,
    num_classes: int,
    images_per_class: int,
    image_bytes: int,
    generator_bytes: int,
    real_class_counts: Sequence[int],
) -> Budget:
    """Returns the contract of one student.

    The images of an epoch are divided into as few batches as `config.batch_size` allows, whose sizes differ by at
    most one: 500 images at 128 are 4 steps of 125. So no step is left with a single image, which BatchNorm can't
    measure.

    Args:
        config: Epochs, steps and the most images a step.
        protocol: Where images come from.
        num_classes: K.
        images_per_class: IPC.
        image_bytes: One image's size as uint8.
        generator_bytes: The generator file's size.
        real_class_counts: Images of each class in the real training split.
    """
    images_per_epoch = images_per_class * num_classes
    steps_per_epoch = math.ceil(images_per_epoch / config.batch_size)
    if config.batch_size == 2:  # an odd epoch has one step of three instead of one of a single image
        steps_per_epoch = images_per_epoch // config.batch_size
    epochs = max(config.epochs, math.ceil(config.min_steps / steps_per_epoch))
    drawn = images_per_epoch * epochs
    distinct = {
        "on_the_fly": drawn,
        "fixed": images_per_epoch,
        "real_on_the_fly": sum(min(images_per_class * epochs, count) for count in real_class_counts),
        "real_fixed": sum(min(images_per_class, count) for count in real_class_counts),
    }[protocol]
    stored = {
        "on_the_fly": generator_bytes,
        "fixed": images_per_epoch * image_bytes,
        "real_on_the_fly": sum(real_class_counts) * image_bytes,
        "real_fixed": distinct * image_bytes,
    }[protocol]
    return Budget(
        images_drawn=drawn,
        distinct_images=distinct,
        optimiser_steps=steps_per_epoch * epochs,
        batch_size=math.ceil(images_per_epoch / steps_per_epoch),
        epochs=epochs,
        stored_bytes=stored,
    )


def image_source(
    protocol: ProtocolName,
    *,
    generator: Generator | None,
    dataset: Dataset,
    images_per_class: int,
    epochs: int,
    seed: int,
) -> ImageSource:
    """Returns the images of one student.

    Args:
        protocol: `on_the_fly` and `fixed` need a generator, the others real images.
        generator: On the dataset's device; it is used in eval mode, and left in it.
        dataset: Real images, and the normalisation of both.
        images_per_class: IPC.
        epochs: How many the source will be asked for.
        seed: Of noise and of the choice of real images.
    """
    labels = balanced_labels(dataset.num_classes, images_per_class, dataset.train.labels.device)
    is_fixed = protocol in ("fixed", "real_fixed")
    if protocol in ("real_on_the_fly", "real_fixed"):
        indices = _real_draws(dataset.train, dataset.num_classes, images_per_class, 1 if is_fixed else epochs, seed)

        def draw(epoch: int) -> tuple[Tensor, Tensor]:
            return dataset.normalisation.from_bytes(dataset.train.images[indices[epoch]]), labels

    elif generator is not None:

        def draw(epoch: int) -> tuple[Tensor, Tensor]:
            images = _generate(generator, labels, seed, epoch)
            if is_fixed:  # stored, and so rounded, as real images are
                return dataset.normalisation.from_bytes(to_bytes(images)), labels
            return dataset.normalisation.from_signed(images), labels

    else:
        raise ValueError(f"protocol {protocol!r} needs a generator")
    if is_fixed:
        images = draw(0)
        return lambda epoch: images
    return draw


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
    """Trains a fresh student on a source's images and tests it in eval mode.

    Args:
        config: Optimiser, schedule and augmentation.
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
    optimizer = torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            1.0 if config.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / contract.optimiser_steps))
        ),
    )
    tested_after = {
        round(contract.epochs * (index + 1) / config.num_test_points) for index in range(config.num_test_points)
    } | {contract.epochs}
    test_accuracies = [] if test else [math.nan]
    steps_per_epoch = contract.optimiser_steps // contract.epochs
    loss = torch.zeros((), device=device)
    for epoch in range(contract.epochs):
        images, labels = source(epoch)
        order = torch.randperm(len(labels), generator=stream(seed, "order", step=epoch, device=device), device=device)
        network.train()
        for index, batch in enumerate(torch.tensor_split(order, steps_per_epoch)):
            rng = stream(seed, "augment", index, step=epoch)
            with autocast(config.precision, device):
                logits = network(augment(images[batch], config.augmentation, rng))
            loss = F.cross_entropy(logits.float(), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        if test and epoch + 1 in tested_after:
            test_accuracies.append(accuracy(network.eval(), dataset.test, dataset.normalisation))
    final_loss = float(loss.detach())
    # The loss was measured before the last update, so the weights have to be looked at, too.
    if not math.isfinite(final_loss) or not all(bool(tensor.isfinite().all()) for tensor in network.parameters()):
        raise DivergedError(
            f"a {architecture} student diverged within {contract.optimiser_steps} steps (loss {final_loss:g}, or "
            f"weights that are not finite numbers); lower evaluation.learning_rate, now {config.learning_rate:g}."
        )
    return StudentResult(
        accuracy=test_accuracies[-1],
        best_test_accuracy=max(test_accuracies),
        validation_accuracy=accuracy(network.eval(), dataset.validation, dataset.normalisation),
        final_loss=final_loss,
        wall_seconds=time.perf_counter() - started,
        budget=contract,
    )


def balanced_labels(num_classes: int, images_per_class: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns (K * IPC,) int64 labels, class after class."""
    return torch.arange(num_classes, device=device).repeat_interleave(images_per_class)


@torch.no_grad()
def _generate(generator: Generator, labels: Tensor, seed: int, epoch: int) -> Tensor:
    rng = stream(seed, "images", step=epoch, device=labels.device)
    generator.eval()
    return torch.cat([generator.sample(part, rng) for part in torch.split(labels, _GENERATION_BATCH)])


def _real_draws(split: Split, num_classes: int, images_per_class: int, epochs: int, seed: int) -> Tensor:
    """Returns indices (epochs, K * IPC), class after class in each epoch.

    Every class goes through its images in a random order, and again in another once they are used up, so that the
    number of distinct images is exactly what the budget says.
    """
    device = split.labels.device
    rng = stream(seed, "real", device=device)
    per_class = []
    for label in range(num_classes):
        members = (split.labels == label).nonzero().squeeze(1)
        rounds = math.ceil(images_per_class * epochs / len(members))
        orders = [members[torch.randperm(len(members), generator=rng, device=device)] for _ in range(rounds)]
        per_class.append(torch.cat(orders)[: images_per_class * epochs].view(epochs, images_per_class))
    return torch.cat(per_class, dim=1)
