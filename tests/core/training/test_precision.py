from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from dim_ray.config import EvaluationConfig
from dim_ray.core.students.budgets import plan_budget
from dim_ray.core.students.images import make_image_stream
from dim_ray.core.students.student import finished, train_students
from dim_ray.core.training.ports import Ports
from dim_ray.core.training.precision import autocast, resolve_precision
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
