"""One weight of matching is as strong for every kind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dim_ray.config import HealthConfig, MatchingConfig, MatchingKind
from dim_ray.core.data.dataset import signed
from dim_ray.core.generator.adversarial import generator_loss
from dim_ray.core.generator.distances import DISTANCES
from dim_ray.core.generator.matching import Distillation, matching_loss
from dim_ray.core.generator.pair import Pair
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool, shard, shard_weight
from dim_ray.core.training.ports import Collective, SingleWorker
from dim_ray.core.training.random import stream
from dim_ray.errors import ConfigError
from tests.helpers.gloo_workers import workers
from tests.helpers.tiny import (
    MATCHING,
    POOL,
    PRIOR,
    STEPS_PER_EPOCH,
    equal_states,
    make_dataset,
    make_pair,
    make_plain_pair,
    make_teachers,
)

DATASET = make_dataset(per_class=24)
RELATIVE = replace(MATCHING, weight=1.0, weight_unit="relative", augmentation="none", batch_size=24)
INDICES = torch.arange(24)
KINDS: list[MatchingKind] = list(DISTANCES)


def stored(numbers: range = range(2), weight: float = 1.0) -> StoredPool:
    teachers = make_teachers(DATASET, [2, 1, 3])
    return StoredPool([teachers[number] for number in numbers], DATASET, weight=weight)


def stage(
    pair: Pair, pool: TeacherPool | None, config: MatchingConfig, collective: Collective | None = None
) -> Distillation:
    return Distillation(
        pair,
        pool,
        config,
        PRIOR,
        DATASET,
        health=HealthConfig(),
        collective=collective or SingleWorker(),
        measure=lambda epoch: {},
    )


def scale_of(config: MatchingConfig, pool: TeacherPool | None = None) -> float:
    own = stage(make_pair(DATASET), pool or stored(), config)
    own.step(0, INDICES)
    assert own.scale is not None
    return own.scale


def gradient_size(pair: Pair, loss: Tensor) -> float:
    """Return the length of all gradients together, as one vector."""
    gradients = torch.autograd.grad(loss, list(pair.generator.parameters()), retain_graph=True)
    return sum(float((gradient**2).sum()) for gradient in gradients) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_weight_of_one_gives_every_kind_a_gradient_of_the_adversarial_ones_size(kind: MatchingKind) -> None:
    config = replace(RELATIVE, kind=kind)
    scale = scale_of(config)
    pair, pool = make_pair(DATASET), stored()
    pair.generator.train()
    adversarial_size = matched_size = 0.0
    for step in range(20):
        rng = stream(99, step=step)
        images, labels = DATASET.train.images[INDICES], DATASET.train.labels[INDICES]
        adversarial, fake = generator_loss(pair, PRIOR, labels, rng, (signed(images), labels))
        drawn = [(teacher, lambda same: same) for teacher in pool.draw(step, 1, stream(98, step=step))]
        adversarial_size += gradient_size(pair, adversarial)
        matched_size += gradient_size(pair, scale * matching_loss(drawn, config, DATASET, images, fake, labels))
    assert matched_size == pytest.approx(adversarial_size, rel=0.35)


def test_kinds_differ_in_size_without_it() -> None:
    scales = [scale_of(replace(RELATIVE, kind=kind)) for kind in KINDS]
    assert max(scales) > 30 * min(scales)


def test_step_is_that_of_the_scaled_absolute_weight() -> None:
    config = replace(RELATIVE, weight=0.3)
    pair, other = make_plain_pair(DATASET), make_plain_pair(DATASET)
    relative = stage(pair, stored(), config)
    relative.step(0, INDICES)
    assert relative.scale is not None
    same = replace(config, weight=0.3 * relative.scale, weight_unit="absolute")
    absolute = stage(other, stored(), same)
    absolute.step(0, INDICES)
    assert absolute.scale is None
    torch.testing.assert_close(pair.weights(), other.weights(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["layer", "spectral"])
@pytest.mark.parametrize("is_online", [False, True])
def test_measuring_leaves_networks_and_pool_as_they_were(norm: str, is_online: bool) -> None:
    pair = make_pair(DATASET, ema_decay=0.5)
    if norm == "spectral":
        from dim_ray.core.generator.pair import build_pair
        from tests.helpers.tiny import GENERATOR

        config = replace(GENERATOR, discriminator_norm="spectral")
        pair = build_pair(config, PRIOR, DATASET, learning_rate=1e-3, seed=1)
    pool: TeacherPool = stored()
    if is_online:
        online = replace(POOL, kind="online", online_steps=2)
        pool = OnlinePool(online, ("convnet3_w8",), DATASET, steps_per_epoch=STEPS_PER_EPOCH, rank=0)
    before = copy.deepcopy(pair.weights())
    own = stage(pair, pool, RELATIVE)
    pair.generator.train()
    scale = own._measure_scale(len(INDICES))
    assert equal_states(pair.weights(), before)
    assert float(own._measure_scale(len(INDICES))) == float(scale)  # the pool begins anew, too


def test_scale_is_measured_once_and_restored() -> None:
    pair = make_pair(DATASET)
    first = stage(pair, stored(), RELATIVE)
    first.step(0, INDICES)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    first.step(1, INDICES)
    again = make_pair(DATASET, seed=9)
    second = stage(again, stored(), RELATIVE)
    second.load_state(state)
    second.step(1, INDICES)
    assert second.scale == first.scale
    assert equal_states(second.state(), first.state())


@pytest.mark.parametrize("changes", [{"kind": "none"}, {"weight": 0.0}, {"weight_unit": "absolute"}], ids=str)
def test_nothing_is_measured_where_nothing_is_weighed(changes: Mapping[str, object]) -> None:
    config = replace(RELATIVE, **changes)  # type: ignore[arg-type]
    own = stage(make_pair(DATASET), None if config.kind == "none" else stored(), config)
    own.step(0, INDICES)
    assert own.scale is None
    assert "matching_scale" not in own.state()


def test_matching_without_a_gradient_is_refused() -> None:
    config = replace(RELATIVE, kind="logit_means", unbiased=True, batch_size=2)
    one_of_each = replace(DATASET, train=replace(DATASET.train, labels=torch.arange(len(DATASET.train)) % 3))
    single = Distillation(
        make_pair(DATASET),
        stored(),
        replace(config, temperature=1e30),
        PRIOR,
        one_of_each,
        health=HealthConfig(),
        collective=SingleWorker(),
        measure=lambda epoch: {},
    )
    with pytest.raises(ConfigError, match=r"'logit_means' can't be weighed .* --matching.weight_unit absolute"):
        single.step(0, torch.arange(2))


def shard_scale(collective: Collective, num_teachers: int) -> float | None:
    numbers = shard(range(num_teachers), collective)
    pool = stored(numbers, shard_weight(range(num_teachers), collective)) if numbers else None
    own = stage(make_pair(DATASET), pool, RELATIVE, collective)
    own.step(0, INDICES[collective.rank :: collective.num_workers])
    return own.scale


@pytest.mark.parametrize("num_teachers", [1, 3])
def test_scale_is_the_same_on_all_workers_and_about_that_of_one(num_teachers: int) -> None:
    [alone] = workers().run(1, shard_scale, num_teachers)
    scales = workers().run(2, shard_scale, num_teachers)
    assert scales[0] == scales[1]
    assert scales[0] == pytest.approx(alone, rel=0.5)
