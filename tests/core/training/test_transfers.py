"""A training step copies nothing between host and device, and never waits for the device.

PyTorch's device `meta` stands for a GPU: its tensors have no values, so whatever reads one is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dim_ray.config import EvaluationConfig, HealthConfig
from dim_ray.config.evaluation import Optimizer
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.students.images import make_image_stream
from dim_ray.core.students.student import train_students
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool
from dim_ray.core.teachers.teacher import TeacherTraining
from dim_ray.core.training.loop import Stage
from dim_ray.core.training.ports import SingleWorker
from tests.helpers.tiny import ARCHITECTURE, MATCHING, POOL, PRIOR, make_dataset, make_pair, make_teachers
from tests.helpers.tiny_students import agree, make_generator

DEVICE = torch.device("meta")
optimizer = sys.modules["torch.optim.optimizer"]  # whose name in torch.optim is another thing's
EVERY_OPERATION = "flip+color@0.5+crop|scale|rotate|color+cutout"


class Transfers(TorchDispatchMode):
    """Notes every operation that moves values from the host to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.num_steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        self.num_steps += func in (aten._fused_sgd_.default, aten._fused_adamw_.default)
        if func is aten._fused_sgd_.default:  # has no meta kernel
            return None
        result = func(*args, **(kwargs or {}))
        given, made = (
            [leaf for leaf in tree_leaves(part) if isinstance(leaf, Tensor)] for part in ((args, kwargs), result)
        )
        is_copy = func in (aten._to_copy.default, aten.copy_.default)
        # Other operations take a single number from the host along.
        from_host = any(not tensor.is_meta and (is_copy or tensor.dim()) for tensor in given)
        is_constant = func is aten.lift_fresh.default  # torch.tensor and its like
        if any(tensor.is_meta for tensor in (*given, *made)) and (from_host or is_constant):
            self.seen.append(str(func))
        return result


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Data on the device, with random streams, optimisers and autocast for it."""

    class Stream(torch.Generator):
        device = DEVICE

    def generator(device: torch.device | str = "cpu") -> torch.Generator:
        return Stream() if torch.device(device) == DEVICE else real("cpu")

    real = torch.Generator
    monkeypatch.setattr(torch, "Generator", generator)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    for stage in ("adversarial", "matching"):  # a check reads values, once an epoch
        monkeypatch.setattr(f"dim_ray.core.generator.{stage}.HealthCheck", lambda *args: None)
    return make_dataset().to(DEVICE)


def transfers(step: Callable[[int, Tensor], object], batch_size: int = 8) -> list[str]:
    """Return the transfers of the second step; the first one may set up what all of them use."""
    for number in range(2):
        with Transfers() as watched:
            step(number, torch.zeros(batch_size, dtype=torch.int64, device=DEVICE))
    return watched.seen


def distillation(dataset: Dataset, pool: TeacherPool | None) -> Stage:
    config = replace(MATCHING, augmentation=EVERY_OPERATION, teachers_per_step=2)
    return Distillation(
        make_pair(dataset, ema_decay=0.9),
        pool,
        config,
        PRIOR,
        dataset,
        health=HealthConfig(),
        collective=SingleWorker(),
        measure=lambda epoch: {},
    )


def test_what_is_watched_for_is_seen() -> None:
    there, here = torch.empty(3, device=DEVICE), torch.ones(3)
    assert transfers(lambda number, indices: here.to(DEVICE)) == ["aten._to_copy.default"]
    assert transfers(lambda number, indices: there.copy_(here)) == ["aten.copy_.default"]
    assert transfers(lambda number, indices: there[torch.tensor([0, 1])]) == ["aten.index.Tensor"]
    assert transfers(lambda number, indices: torch.tensor(0.5, device=DEVICE)) == ["aten.lift_fresh.default"]
    assert transfers(lambda number, indices: there + 2 * torch.full((3,), 0.5, device=DEVICE)) == []
    for wait in (lambda: there[0].item(), lambda: there[there > 0], lambda: there.nonzero(), lambda: there.tolist()):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            wait()


@pytest.mark.parametrize("members", [1, 3])
def test_teachers_step(dataset: Dataset, members: int) -> None:
    config = replace(POOL, augmentation=EVERY_OPERATION)
    stage = TeacherTraining(config, range(members), ARCHITECTURE, dataset)
    assert transfers(stage.step, members * 8) == []


@pytest.mark.parametrize("loss", ["wasserstein", "hinge"])
def test_priors_step(dataset: Dataset, loss: Any) -> None:
    config = replace(PRIOR, loss=loss, augmentation=EVERY_OPERATION, uniform_labels="discriminator")
    stage = AdversarialTraining(make_pair(dataset, ema_decay=0.9), config, dataset, HealthConfig(), SingleWorker())
    assert transfers(stage.step) == []


@pytest.mark.parametrize("kind", ["stored", "online"])
def test_matching_step(dataset: Dataset, kind: str) -> None:
    pool: TeacherPool
    if kind == "stored":
        pool = StoredPool(make_teachers(make_dataset(), [2, 1]), dataset)
    else:
        config = replace(POOL, kind="online", online_steps=2, augmentation=EVERY_OPERATION)
        pool = OnlinePool(config, (ARCHITECTURE,), dataset, steps_per_epoch=9, rank=0)
    assert transfers(distillation(dataset, pool).step) == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("members", [1, 3])
def test_students_steps(dataset: Dataset, members: int, optimizer: Optimizer) -> None:
    """All of a student's training, up to the losses at the end."""
    config = EvaluationConfig(
        epochs=3, batch_size=4, optimizer=optimizer, schedule="cosine", augmentation=EVERY_OPERATION
    )
    budget = agree("on_the_fly", config)
    generator = make_generator().to(DEVICE)
    image_streams = [
        make_image_stream(
            config, "on_the_fly", generator=generator, dataset=dataset, images_per_class=2, budget=budget, seed=seed
        )
        for seed in range(members)
    ]
    for _ in range(2):  # the first one sets up what all of them use
        with Transfers() as watched, pytest.raises(NotImplementedError, match="meta"):  # the last losses are read
            train_students(
                config, image_streams, dataset, architecture=ARCHITECTURE, budgets=[budget] * members,
                seeds=range(members), test=False,
            )  # fmt: skip
    assert watched.seen == []
    assert watched.num_steps == budget.optimiser_steps
