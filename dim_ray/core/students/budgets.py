"""A student's budget in numbers, known before it is trained; docs/protocols.md explains the arithmetic.

budget = plan_budget(config, "on_the_fly", num_classes=10, images_per_class=10, ...)
budget.images_drawn, budget.stored_bytes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dim_ray.config import EvaluationConfig
from dim_ray.config import Protocol as ProtocolName

__all__ = ["Budget", "plan_budget"]

_FLOAT_BYTES = 4  # one class's probability in a stored soft label


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a student may use."""

    images_drawn: int
    distinct_images: int
    optimiser_steps: int
    batch_size: int
    """Images of the largest step; 0 if there is none."""
    epochs: int
    images_per_epoch: int
    stored_bytes: int
    """Size of the generator's file, or of the images as uint8; with soft labels also of the labels or teachers."""


def plan_budget(
    config: EvaluationConfig,
    protocol: ProtocolName,
    *,
    num_classes: int,
    images_per_class: int,
    image_bytes: int,
    generator_bytes: int,
    real_class_counts: Sequence[int],
    teacher_bytes: int = 0,
) -> Budget:
    """Return the budget of one student.

    An epoch has as few batches as `config.batch_size` allows, whose sizes differ by at most one: 500 images at 128 are
    4 steps of 125. So no step has a single image, which BatchNorm can't normalise. The quirks `dropped_batches` and
    `extra_batch` have only whole batches, one less or one more; the former may leave zero steps.

    An image has its size as uint8, the generator and the teachers that the student needs those of their files, and
    `real_class_counts` are the images of each class in the real training split.
    """
    num_real = sum(real_class_counts)
    set_size = num_real if protocol == "real_full" else images_per_class * num_classes
    images_per_epoch, steps_per_epoch = _epoch(config, protocol, set_size)
    epochs = config.epochs
    if steps_per_epoch:
        epochs = max(epochs, math.ceil(config.min_steps / steps_per_epoch))
    drawn = images_per_epoch * epochs
    # Classes take turns, so the first ones may be drawn once more.
    draws = [len(range(label, drawn, num_classes)) for label in range(num_classes)]
    num_subset = sum(min(images_per_class, count) for count in real_class_counts)
    distinct = {
        "on_the_fly": drawn,
        "fixed": min(set_size, drawn),
        "real_on_the_fly": sum(map(min, draws, real_class_counts)),
        "real_fixed": min(num_subset, drawn),
        "real_full": num_real,
    }[protocol]
    is_soft = config.labels == "soft"
    stored_image_bytes = image_bytes + (num_classes * _FLOAT_BYTES if is_soft else 0)
    stored = {
        "on_the_fly": generator_bytes + (teacher_bytes if config.asks_teachers else 0),
        "fixed": set_size * stored_image_bytes,
        "real_on_the_fly": num_real * image_bytes + (teacher_bytes if is_soft else 0),
        "real_fixed": num_subset * stored_image_bytes,
        "real_full": num_real * stored_image_bytes,
    }[protocol]
    return Budget(
        images_drawn=drawn,
        distinct_images=distinct,
        optimiser_steps=steps_per_epoch * epochs,
        batch_size=math.ceil(images_per_epoch / steps_per_epoch) if steps_per_epoch else 0,
        epochs=epochs,
        images_per_epoch=images_per_epoch,
        stored_bytes=stored,
    )


def _epoch(config: EvaluationConfig, protocol: ProtocolName, set_size: int) -> tuple[int, int]:
    """Return images and steps of one epoch over `set_size` images."""
    whole_batches = set_size // config.batch_size
    if protocol != "real_full" and "dropped_batches" in config.all_quirks:
        return whole_batches * config.batch_size, whole_batches
    if protocol != "real_full" and "extra_batch" in config.all_quirks:
        return (whole_batches + 1) * config.batch_size, whole_batches + 1
    if config.batch_size == 2:  # an odd epoch has one step of three instead of one of a single image
        return set_size, whole_batches
    return set_size, math.ceil(set_size / config.batch_size)
