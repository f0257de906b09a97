from __future__ import annotations

from dataclasses import replace

import pytest

from dim_ray.config import EvaluationConfig, Quirk
from dim_ray.core.students.budgets import Budget
from tests.helpers.tiny_students import CONFIG, agree


@pytest.mark.parametrize(
    ("protocol", "distinct", "stored"),
    [
        # 10 classes, IPC 50: 500 images an epoch, 1,000 epochs; 6,000 real images a class.
        ("on_the_fly", 500_000, 123_456),
        ("fixed", 500, 500 * 784),
        ("real_on_the_fly", 60_000, 60_000 * 784),
        ("real_fixed", 500, 500 * 784),
    ],
)
def test_budget_of_the_paper(protocol: str, distinct: int, stored: int) -> None:
    found = agree(
        protocol,
        EvaluationConfig(),
        images_per_class=50,
        num_classes=10,
        image_bytes=784,
        generator_bytes=123_456,
        real_class_counts=[6000] * 10,
    )
    assert found == Budget(
        images_drawn=500_000,
        distinct_images=distinct,
        optimiser_steps=4000,
        batch_size=125,
        epochs=1000,
        images_per_epoch=500,
        stored_bytes=stored,
    )


@pytest.mark.parametrize(
    ("images_per_class", "batch_size", "min_steps", "epochs", "steps", "drawn", "largest"),
    [
        (1, 128, 1, 4, 4, 12, 3),  # three images are one batch
        (1, 128, 10, 10, 10, 30, 3),  # four epochs would be four steps
        (10, 10, 10, 4, 12, 120, 10),  # three steps an epoch
        (10, 10, 13, 5, 15, 150, 10),  # one step more than four epochs have takes a whole epoch
        (10, 7, 1, 4, 20, 120, 6),  # five batches of six instead of four of seven and one of two
        (10, 29, 1, 4, 8, 120, 15),  # not 29 and 1
        (1, 2, 1, 4, 4, 12, 3),  # not 2 and 1
        (3, 2, 1, 4, 16, 36, 3),  # four steps: three of two and one of three
        (2, 2, 1, 4, 12, 24, 2),
    ],
)
def test_budget_in_numbers(
    images_per_class: int, batch_size: int, min_steps: int, epochs: int, steps: int, drawn: int, largest: int
) -> None:
    config = replace(CONFIG, batch_size=batch_size, min_steps=min_steps)
    found = agree("on_the_fly", config, images_per_class=images_per_class)
    assert (found.epochs, found.optimiser_steps, found.images_drawn) == (epochs, steps, drawn)
    assert (found.batch_size, found.distinct_images) == (largest, drawn)


def test_classes_of_different_sizes_are_used_up_at_different_times() -> None:
    found = agree("real_on_the_fly", images_per_class=2, real_class_counts=[100, 8, 5])  # eight draws a class
    assert found.distinct_images == 8 + 8 + 5
    assert found.stored_bytes == 113 * 64
    assert agree("real_fixed", images_per_class=6, real_class_counts=[100, 8, 5]).distinct_images == 6 + 6 + 5


def test_student_of_all_real_images_has_epochs_of_the_whole_split() -> None:
    config = replace(CONFIG, epochs=3, batch_size=10)
    found = agree("real_full", config, images_per_class=5, real_class_counts=[100, 8, 5])
    assert found == Budget(
        images_drawn=3 * 113,
        distinct_images=113,
        optimiser_steps=3 * 12,
        batch_size=10,
        epochs=3,
        images_per_epoch=113,
        stored_bytes=113 * 64,
    )


# 10 classes; IPC 1, 10, 50 are 10, 100, 500 images.
@pytest.mark.parametrize(
    ("quirk", "batch_size", "images_per_class", "per_epoch", "steps_per_epoch"),
    [
        ("extra_batch", 128, 1, 128, 1),
        ("extra_batch", 64, 1, 64, 1),
        ("extra_batch", 128, 10, 128, 1),
        ("extra_batch", 128, 50, 512, 4),
        ("extra_batch", 100, 10, 200, 2),  # one more though nothing was left over
        ("dropped_batches", 128, 1, 0, 0),
        ("dropped_batches", 128, 10, 0, 0),
        ("dropped_batches", 128, 50, 384, 3),
        ("dropped_batches", 100, 10, 100, 1),
        ("extra_batch", 2, 1, 12, 6),
        ("dropped_batches", 2, 1, 10, 5),
    ],
)
def test_epochs_of_the_reference_are_whole_batches(
    quirk: Quirk, batch_size: int, images_per_class: int, per_epoch: int, steps_per_epoch: int
) -> None:
    config = EvaluationConfig(quirks=(quirk,), batch_size=batch_size)
    counts = {"num_classes": 10, "real_class_counts": [6000] * 10}
    found = agree("on_the_fly", config, images_per_class=images_per_class, **counts)
    assert found.images_per_epoch == per_epoch
    assert (found.images_drawn, found.optimiser_steps) == (1000 * per_epoch, 1000 * steps_per_epoch)
    assert found.distinct_images == found.images_drawn
    assert found.batch_size == (batch_size if steps_per_epoch else 0)
    assert found.epochs == 1000


def test_epochs_are_repeated_for_the_least_steps_under_a_quirk_too() -> None:
    config = EvaluationConfig(quirks=("dropped_batches",), batch_size=4, epochs=2, min_steps=7)
    assert agree("on_the_fly", config, images_per_class=3).epochs == 4  # of nine images in two batches
    assert agree("on_the_fly", config, images_per_class=1).optimiser_steps == 0


def test_all_real_images_have_no_batch_dropped_or_added() -> None:
    plain, *quirky = (
        agree("real_full", replace(CONFIG, quirks=quirks)) for quirks in ((), ("extra_batch",), ("dropped_batches",))
    )
    assert quirky == [plain, plain]


@pytest.mark.parametrize(
    ("protocol", "stored"),
    [
        # 3 classes of 8 images of 64 bytes; IPC 2; a label is 3 numbers of 4 bytes
        ("on_the_fly", 10_000 + 7_000),
        ("fixed", 6 * (64 + 12)),
        ("real_on_the_fly", 24 * 64 + 7_000),
        ("real_fixed", 6 * (64 + 12)),
        ("real_full", 24 * (64 + 12)),
    ],
)
def test_soft_labels_are_stored_with_a_set_and_else_the_teachers_are(protocol: str, stored: int) -> None:
    soft = agree(protocol, replace(CONFIG, labels="soft"), teacher_bytes=7_000)
    hard = agree(protocol, CONFIG, teacher_bytes=7_000)
    assert soft.stored_bytes == stored
    assert hard == agree(protocol, CONFIG)
    assert replace(soft, stored_bytes=0) == replace(hard, stored_bytes=0)
