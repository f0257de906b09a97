"""Whether ensembles pay: by a rule on CPUs, measured elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch

from dim_ray.config import EvaluationConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.teachers import ensemble_speed
from dim_ray.core.teachers.ensemble_speed import Recipe, ensemble_may_pay, ensemble_pays, measure_ensemble
from tests.helpers.tiny import ARCHITECTURE, POOL, make_dataset

DATASET = make_dataset()


@pytest.mark.parametrize(
    ("architecture", "batch_size", "image_size", "pays"),
    [
        ("convnet3", 10, 8, True),  # what the default study evaluates at IPC 1
        ("convnet3", 20, 8, False),
        ("convnet3", 10, 28, False),
        ("resnet10_w16", 10, 8, True),
        ("resnet10", 10, 8, False),
    ],
)
def test_ensemble_pays_on_a_cpu_where_a_step_is_small(
    architecture: str, batch_size: int, image_size: int, pays: bool
) -> None:
    dataset = make_dataset(size=image_size)
    assert ensemble_may_pay(architecture, dataset, "cpu", batch_size=batch_size) is pays
    assert ensemble_pays(POOL, architecture, dataset, batch_size=batch_size) is pays
    assert ensemble_may_pay(architecture, dataset, "cuda", batch_size=batch_size), "only the device can tell"


def elsewhere() -> Dataset:
    """Return a data set on a device other than the CPU."""
    split = replace(DATASET.train, images=DATASET.train.images.to("meta"), labels=DATASET.train.labels.to("meta"))
    return replace(DATASET, train=split)


@pytest.mark.parametrize(("ratio", "pays"), [(2.0, True), (0.5, False)])
def test_elsewhere_it_pays_where_a_measurement_says_so(
    monkeypatch: pytest.MonkeyPatch, ratio: float, pays: bool
) -> None:
    measured: list[Any] = []

    def measure(*kind: Any) -> float:
        measured.append(kind)
        return ratio

    monkeypatch.setattr(ensemble_speed, "measure_ensemble", measure)
    recipe = EvaluationConfig(optimizer="adam")
    assert ensemble_pays(recipe, ARCHITECTURE, elsewhere(), batch_size=5) is pays
    assert measured == [(recipe, ARCHITECTURE, torch.device("meta"), 5, (1, 8, 3))]


@pytest.mark.parametrize("recipe", [POOL, EvaluationConfig(optimizer="adamw", augmentation="flip")])
def test_measurement_is_the_ratio_of_steps_of_the_recipe_and_is_made_once(recipe: Recipe) -> None:
    kind = (recipe, "mlp_w16", torch.device("cpu"), 4, (1, 8, 3))
    with mock.patch.object(ensemble_speed, "train_members", wraps=ensemble_speed.train_members) as train:
        assert 0.1 < measure_ensemble(*kind) < 10
    name = "AdamW" if isinstance(recipe, EvaluationConfig) else "SGD"
    assert {type(call.args[1]).__name__ for call in train.call_args_list} == {name}
    assert {call.kwargs["augmentation"] for call in train.call_args_list} == {recipe.augmentation}
    with mock.patch.object(ensemble_speed, "train_members", side_effect=AssertionError("measured again")):
        assert measure_ensemble(*kind) == measure_ensemble(*kind)


def test_measurement_compares_three_networks_with_three_times_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def train(members: Any, optimizer: Any, images: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        nonlocal now
        now += {4: 0.5, 12: 0.75}[len(images)]
        return torch.zeros(1)

    monkeypatch.setattr(ensemble_speed, "train_members", train)
    monkeypatch.setattr(ensemble_speed.time, "perf_counter", lambda: now)
    measure_ensemble.cache_clear()
    assert measure_ensemble(POOL, "lenet", torch.device("cpu"), 4, (1, 8, 3)) == 2.0
