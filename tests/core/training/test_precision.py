from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from dim_ray.config import EvaluationConfig, Precision
from dim_ray.core.students.budgets import plan_budget
from dim_ray.core.students.images import make_image_stream
from dim_ray.core.students.student import finished, train_students
from dim_ray.core.training.ports import Ports
from dim_ray.core.training.precision import autocast, call, resolve_precision, stated_precision
from tests.helpers.tiny import ARCHITECTURE, POOL, equal_states, make_dataset, train_teachers

CPU = torch.device("cpu")
DATASET = make_dataset()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bfloat16"),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, "float32"),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bfloat16"),
        ({"avx2": True}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_is_faster_in_it(
    capabilities: Mapping[str, bool | str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"


def test_products_are_computed_in_the_precision_asked_for() -> None:
    matrix = torch.ones(2, 2)
    with autocast("float32", CPU):
        assert (matrix @ matrix).dtype == torch.float32
    with autocast("bfloat16", CPU):
        assert (matrix @ matrix).dtype == torch.bfloat16


def test_weights_used_without_a_gradient_have_one_afterwards() -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast("bfloat16", CPU):
        with torch.no_grad():
            layer(torch.ones(1, 2))
        layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_that_are_cast_at_once_give_the_bits_of_autocast(precision: Precision) -> None:
    images, results = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    layers = [torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Flatten(), torch.nn.Linear(180, 2)]
    network = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)
    for at_once in (False, True):
        network.zero_grad()
        with autocast(precision, CPU):
            out = call(network, precision, images) if at_once else network(images)
        out.float().square().sum().backward()
        results.append({"out": out.detach(), **{name: p.grad.clone() for name, p in network.named_parameters()}})
    assert equal_states(*results)
    assert layers[0].weight.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("capability", "allowed", "precision", "expected"),
    [
        ((9, 0), True, "float32", "tf32"),
        ((9, 0), False, "float32", "float32"),
        ((7, 5), True, "auto", "float32"),
        ((9, 0), True, "auto", "bfloat16"),
    ],
)
def test_rows_say_tf32_where_convolutions_of_float32_are_in_it(
    capability: tuple[int, int], allowed: bool, precision: Precision, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    assert stated_precision(precision, torch.device("cuda")) == expected
    assert stated_precision("float32", CPU) == "float32"


def test_teachers_and_students_in_bfloat16_are_close_to_float32() -> None:
    config = EvaluationConfig(epochs=4, batch_size=4, learning_rate=0.05, precision="float32")
    budget = plan_budget(
        config,
        "real_on_the_fly",
        num_classes=3,
        images_per_class=2,
        image_bytes=64,
        generator_bytes=0,
        real_class_counts=[8, 8, 8],
    )
    final_losses, snapshots = [], []
    for precision in ("bfloat16", "float32"):
        image_stream = make_image_stream(
            config, "real_on_the_fly", generator=None, dataset=DATASET, images_per_class=2, budget=budget, seed=0
        )
        recipe = replace(config, precision=precision)
        [student] = finished(
            train_students(recipe, [image_stream], DATASET, architecture=ARCHITECTURE, budgets=[budget], seeds=[0])
        )
        final_losses.append(student.final_loss)
        [teacher] = train_teachers(replace(POOL, precision=precision), [0], ARCHITECTURE, DATASET, Ports())
        snapshots.append(teacher.snapshots[-1])
    half, full = final_losses
    assert half != full
    assert half == pytest.approx(full, rel=0.1)
    assert not equal_states(*snapshots)
    torch.testing.assert_close(dict(snapshots[0]), dict(snapshots[1]), atol=0.02, rtol=0.1)
