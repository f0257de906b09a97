from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from dim_ray.config import NormalisationKind
from dim_ray.core.data.splits import Split
from dim_ray.core.networks import build_classifier
from dim_ray.core.networks.classifiers import label_loss
from dim_ray.core.teachers import soft_labels
from dim_ray.core.teachers.soft_labels import Labeller
from dim_ray.core.teachers.teacher import Teacher
from dim_ray.core.training.checkpoint import restore_module
from dim_ray.core.training.random import stream
from tests.helpers.tiny import make_dataset, make_teachers

DATASET = make_dataset()
IMAGES = DATASET.normalisation.from_bytes(DATASET.train.images)


def last_predictions(teachers: list[Teacher], images: Tensor, temperature: float) -> list[Tensor]:
    """Return (N, K) probabilities of each teacher's last snapshot, one image at a time."""
    found = []
    for teacher in teachers:
        network = build_classifier(
            teacher.architecture, num_channels=1, num_classes=3, image_size=8, rng=torch.Generator()
        )
        restore_module(network, teacher.snapshots[-1])
        network.eval()
        exponentials = [(network(image[None]).detach()[0] / temperature).exp() for image in images]
        found.append(torch.stack([row / row.sum() for row in exponentials]))
    return found


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("architecture", ["convnet3_w8", "resnet10_w4"])
def test_label_is_the_mean_of_what_the_last_snapshots_say(architecture: str, temperature: float) -> None:
    teachers = make_teachers(DATASET, [3, 1, 2], architecture)
    found = Labeller(teachers, DATASET, temperature)(IMAGES)
    expected = sum(last_predictions(teachers, IMAGES, temperature)) / 3
    torch.testing.assert_close(found, cast(Tensor, expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(IMAGES)))
    assert not found.requires_grad


def test_teachers_of_different_architectures_label_together() -> None:
    teachers = [*make_teachers(DATASET, [1], "convnet3_w8"), *make_teachers(DATASET, [1], "resnet10_w4")]
    found = Labeller(teachers, DATASET, 1.0)(IMAGES)
    torch.testing.assert_close(
        found, torch.stack(last_predictions(teachers, IMAGES, 1.0)).mean(0), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("given", ["measured", "dim", "dim_signed"])
def test_each_teacher_sees_images_in_its_own_normalisation_whatever_the_students_have(given: NormalisationKind) -> None:
    kinds: list[NormalisationKind] = ["measured", "dim", "dim_signed"]
    dataset = replace(DATASET, name="mnist")
    teachers = [replace(*make_teachers(DATASET, [1]), normalisation=kind) for kind in kinds]
    expected = []
    for teacher in teachers:
        own = dataset.normalised(teacher.normalisation).normalisation.from_bytes(dataset.train.images)
        expected += last_predictions([teacher], own, 1.0)
    images = dataset.normalised(given).normalisation.from_bytes(dataset.train.images)
    found = Labeller(teachers, dataset, 1.0, given)(images)
    torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-4)


def test_images_are_labelled_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = Labeller(make_teachers(DATASET, [1]), DATASET, 1.0)
    whole = labeller(IMAGES)
    monkeypatch.setattr(soft_labels, "_LABELLING_BATCH", 7)
    torch.testing.assert_close(labeller(IMAGES), whole)


def test_labelling_needs_neither_the_validation_nor_the_test_split() -> None:
    nothing = cast(Split, None)
    blind = replace(DATASET, validation=nothing, test=nothing)
    assert Labeller(make_teachers(DATASET, [1]), blind, 1.0)(IMAGES).shape == (24, 3)


def reference_loss(logits: Tensor, probabilities: Tensor, temperature: float) -> float:
    total = 0.0
    for row, label in zip(logits.double() / temperature, probabilities.double(), strict=True):
        student = row.exp() / row.exp().sum()
        total += sum(float(p * (p / q).log()) for p, q in zip(label, student, strict=True) if p > 0)
    return temperature**2 * total / len(logits)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_loss_of_soft_labels_is_the_divergence_times_the_temperature_squared(temperature: float) -> None:
    logits = torch.randn(5, 3, generator=stream(0, "logits"))
    probabilities = torch.softmax(3 * torch.randn(5, 3, generator=stream(1, "labels")), dim=1)
    probabilities[0] = torch.tensor([0.0, 1.0, 0.0])
    found = label_loss(logits, probabilities, temperature)
    assert found.item() == pytest.approx(reference_loss(logits, probabilities, temperature), rel=1e-5)


def test_student_that_agrees_with_its_labels_has_no_loss() -> None:
    logits = torch.randn(5, 3, generator=stream(0, "logits"))
    assert label_loss(logits, torch.softmax(logits / 2.0, dim=1), 2.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_loss_of_hard_labels_is_cross_entropy_at_any_temperature(temperature: float) -> None:
    logits = torch.randn(5, 3, generator=stream(0, "logits"))
    classes = torch.tensor([0, 2, 1, 1, 0])
    expected = -torch.log_softmax(logits, dim=1)[torch.arange(5), classes].mean()
    torch.testing.assert_close(label_loss(logits, classes, temperature), expected)
    one_hot: Any = torch.nn.functional.one_hot(classes, 3).float()
    torch.testing.assert_close(label_loss(logits, one_hot, 1.0), expected)
