from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.config import EvaluationConfig, Precision
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.networks.ensemble import stack
from dim_ray.core.students.images import ImageStream
from dim_ray.core.students.student import StudentResult, finished, train_students
from dim_ray.core.training.random import stream
from dim_ray.errors import DivergedError
from tests.helpers.tiny import ARCHITECTURE
from tests.helpers.tiny_students import CONFIG, DATASET, agree, make_stream, no_warnings, train

SEEDS = (4, 0, 7)
ONE_IMAGE = 1.01 / len(DATASET.test)  # an accuracy's smallest step: rounding may turn one answer


def image_streams(count: int = len(SEEDS)) -> list[ImageStream]:
    protocols = ("real_on_the_fly", "on_the_fly", "real_fixed")
    return [make_stream(protocols[index % 3], seed=index) for index in range(count)]


def soft(image_stream: ImageStream) -> ImageStream:
    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        images, labels = image_stream(epoch)
        return images, torch.softmax(torch.randn(len(labels), 3, generator=stream(epoch, "soft")), dim=1)

    return draw


def train_at_once(config: EvaluationConfig, own: list[ImageStream], **options: Any) -> list[Any]:
    budgets = [agree("real_on_the_fly", config)] * len(own)
    arguments = {"architecture": ARCHITECTURE, "budgets": budgets, "seeds": SEEDS[: len(own)], **options}
    return train_students(config, own, DATASET, **arguments)


def train_one_by_one(config: EvaluationConfig, own: list[ImageStream], **options: Any) -> list[StudentResult]:
    return [train(config, image_stream, seed=seed, **options) for image_stream, seed in zip(own, SEEDS, strict=False)]


def assert_same(found: list[StudentResult], expected: list[StudentResult], *, rel: float = 1e-4) -> None:
    assert len({student.final_loss for student in expected}) == len(expected), "every student has images of its own"
    for one, other in zip(found, expected, strict=True):
        assert one.final_loss == pytest.approx(other.final_loss, rel=rel)
        for name in ("accuracy", "best_test_accuracy", "validation_accuracy"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=ONE_IMAGE)
        assert one.budget == other.budget


ARCHITECTURES = (
    "convnet3_w8", "convnet3_bn_w8", "convnet3_ln_w8", "convnet3_gn_w8", "convnet3_nonorm_w8", "mlp_w16", "lenet",
    "alexnet_w8", "vgg11_w4", "resnet10_w4", "resnet10_ap_in_w4", "resnet50_w4", "densenet121_w4", "vit_tiny_w12",
    "convnet3_dim", "resnet10_dim", "resnet10_ap_dim", "resnet10_dim7", "resnet10_ap_dim7",
)  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_passes_gradients_and_statistics_of_an_ensemble_are_each_members_own(architecture: str) -> None:
    # In float64: deep networks with a batch norm of few images make anything of a rounding error.
    networks = [build_network(architecture, DATASET, stream(seed)).double() for seed in range(2)]
    members = stack([copy.deepcopy(network) for network in networks])
    images = torch.randn(2 * 4, 1, 8, 8, generator=stream(9), dtype=torch.float64)
    labels = torch.arange(2 * 4) % 3
    members.set_mode(training=True)
    losses = members.losses(images, labels, precision="float32", temperature=1.0)
    losses.sum().backward()
    members.set_mode(training=False)
    logits = members.logits(images)
    for index, (network, own, answers) in enumerate(zip(networks, images.split(4), labels.split(4), strict=True)):
        loss = F.cross_entropy(network.train()(own).float(), answers)
        loss.backward()
        torch.testing.assert_close(losses[index], loss)
        gradients = [cast(Tensor, parameter.grad) for parameter in members.parameters]
        for found, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(found[index], parameter.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close([buffer[index] for buffer in members.buffers], list(network.buffers()))
        torch.testing.assert_close(logits[index], network.eval()(images))


COSINE = {"optimizer": "sgd", "schedule": "cosine"}
SOFT = {"optimizer": "adamw", "learning_rate": 1e-4, "labels": "soft", "soft_label_temperature": 2.0}
QUIRKS = {"quirks": ("train_mode_test", "best_of_tests")}


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        *((name, COSINE) for name in ("convnet3_w8", "resnet10_w4", "vit_tiny_w12")),
        *((name, own) for own in (COSINE, SOFT, QUIRKS) for name in ("convnet3_bn_w8", "mlp_w16")),
    ],
    ids=lambda own: own if isinstance(own, str) else ", ".join(map(str, own.values())),
)
def test_students_at_once_are_those_of_one_by_one(architecture: str, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, epochs=2, **changes)
    own = [soft(image_stream) for image_stream in image_streams()] if config.labels == "soft" else image_streams()
    found = finished(train_at_once(config, own, architecture=architecture))
    assert_same(found, train_one_by_one(config, own, architecture=architecture))


@pytest.mark.parametrize("architecture", ["convnet3_bn_w8", "mlp_w16"])
def test_students_at_once_in_bfloat16_are_as_close_as_bfloat16_is(architecture: str) -> None:
    config = replace(CONFIG, epochs=2, learning_rate=0.01, precision="bfloat16")
    found = finished(train_at_once(config, image_streams(), architecture=architecture))
    one_by_one = train_one_by_one(config, image_streams(), architecture=architecture)
    full = train_one_by_one(replace(config, precision="float32"), image_streams(), architecture=architecture)
    for student, half, exact in zip(found, one_by_one, full, strict=True):
        assert student.final_loss != exact.final_loss
        assert student.final_loss == pytest.approx(half.final_loss, rel=0.03)


def test_students_at_once_do_without_the_test_split_and_share_the_time() -> None:
    found = finished(train_at_once(CONFIG, image_streams(), test=False))
    expected = train_one_by_one(CONFIG, image_streams(), test=False)
    assert all(math.isnan(student.accuracy) for student in found)
    assert [student.validation_accuracy for student in found] == pytest.approx(
        [student.validation_accuracy for student in expected], abs=ONE_IMAGE
    )
    assert len({student.wall_seconds for student in found}) == 1


def test_student_that_diverged_is_named_and_leaves_the_others_alone() -> None:
    own = image_streams()
    sound = own[1]

    def broken(epoch: int) -> tuple[Tensor, Tensor]:
        images, labels = sound(epoch)
        return images * math.inf, labels

    own[1] = broken
    first, diverged, last = train_at_once(CONFIG, own)
    assert isinstance(diverged, DivergedError)
    assert f"seed {SEEDS[1]}, loss nan" in str(diverged)
    expected = [train(CONFIG, own[index], seed=SEEDS[index]) for index in (0, 2)]
    assert_same(finished([first, last]), expected)
    with pytest.raises(DivergedError, match=f"seed {SEEDS[1]}"):
        finished([first, diverged, last])


def test_weights_that_one_member_lost_are_its_own_affair() -> None:
    members = stack([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
    with torch.no_grad():
        members.parameters[1][2, 0] = math.nan  # a bias
    assert members.are_finite() == [True, True, False]


def test_training_an_ensemble_warns_of_nothing() -> None:
    with no_warnings():
        train_at_once(CONFIG, [soft(image_stream) for image_stream in image_streams()], architecture="vit_tiny_w12")


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["convnet3_w8", "convnet3_bn_w8", "vit_tiny_w12"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_students_at_once_on_a_device_are_those_of_one_by_one(architecture: str, precision: Precision) -> None:
    dataset = DATASET.to("cuda")
    config = replace(CONFIG, epochs=2, learning_rate=0.01, precision=precision)
    own = [make_stream("real_on_the_fly", seed=seed, dataset=dataset) for seed in SEEDS]
    budgets = [agree("real_on_the_fly", config)] * len(SEEDS)
    found = finished(train_students(config, own, dataset, architecture=architecture, budgets=budgets, seeds=SEEDS))
    expected = [
        train(config, image_stream, dataset, architecture=architecture, seed=seed)
        for image_stream, seed in zip(own, SEEDS, strict=True)
    ]
    # Convolutions may be in TF32 there.
    losses = [student.final_loss for student in expected]
    assert [student.final_loss for student in found] == pytest.approx(losses, rel=0.03)
