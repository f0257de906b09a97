"""The benchmarks' slow references compute what the steps compute that they are compared with."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from benchmarks import plain
from dim_ray.config import HealthConfig
from dim_ray.core.data.dataset import signed
from dim_ray.core.generator.adversarial import discriminator_steps, generator_loss, generator_step
from dim_ray.core.generator.base import MapNorm
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.networks.ensemble import stack
from dim_ray.core.teachers.pool import StoredPool
from dim_ray.core.teachers.teacher import make_optimizer, train_step
from dim_ray.core.training.ports import SingleWorker
from dim_ray.core.training.random import stream
from tests.helpers.tiny import (
    ARCHITECTURE,
    MATCHING,
    POOL,
    PRIOR,
    make_dataset,
    make_pair,
    make_plain_pair,
    make_teachers,
)

DATASET = make_dataset(per_class=16)
BATCH = 16
STEPS = 3


def two_pairs() -> tuple[Pair, Pair]:
    """Return the same networks twice, with plain gradient descent; `make_plain_pair` says why."""
    ours, theirs = (make_plain_pair(DATASET, learning_rate=0.5) for _ in range(2))
    for network in (theirs.generator, theirs.discriminator):
        network.to(memory_format=torch.contiguous_format)
    return ours, theirs


def assert_same(ours: nn.Module, theirs: nn.Module, before: nn.Module) -> None:
    """Check that the weights differ by no more than a small share of how far training moved them."""
    triples = list(zip(ours.parameters(), theirs.parameters(), before.parameters(), strict=True))
    moved = max((mine - first).abs().max().item() for mine, _, first in triples)
    apart = max((mine - other).abs().max().item() for mine, other, _ in triples)
    assert moved > 0
    assert apart < 0.02 * moved
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), atol=1e-5, rtol=1e-4)


def test_adversarial_step_is_the_plain_one() -> None:
    ours, theirs = two_pairs()
    before = copy.deepcopy(ours)
    for number in range(STEPS):
        images, labels = DATASET.train.images[:BATCH], DATASET.train.labels[:BATCH]
        other = labels.roll(1)
        rng = stream(0, step=number)
        critic = discriminator_steps(ours, PRIOR, signed(images), labels, rng, SingleWorker(), step=number)
        loss, _ = generator_loss(ours, PRIOR, other, rng, (signed(images), labels))
        generator_step(ours, loss, SingleWorker())
        found = plain.adversarial_step(theirs, PRIOR, signed(images), labels, other, stream(0, step=number))
        torch.testing.assert_close((critic, loss.detach()), found, atol=1e-5, rtol=1e-4)
    assert_same(ours.generator, theirs.generator, before.generator)
    assert_same(ours.discriminator, theirs.discriminator, before.discriminator)


def test_plain_networks_compute_what_ours_do() -> None:
    ours, theirs = (make_pair(DATASET) for _ in range(2))
    plain.make_plain(theirs)
    images, labels = signed(DATASET.train.images[:BATCH]), DATASET.train.labels[:BATCH]
    torch.testing.assert_close(theirs.discriminator(images, labels), ours.discriminator(images, labels))
    assert not any(isinstance(part, MapNorm) for part in theirs.discriminator.modules())


def test_matching_step_is_the_plain_one() -> None:
    ours, theirs = two_pairs()
    before = copy.deepcopy(ours)
    config = replace(MATCHING, weight=20.0, augmentation="color|crop|cutout|flip|scale|rotate")
    pool = StoredPool(make_teachers(DATASET, [1]), DATASET)
    teacher = pool.draw(0, 1, stream(0))[0]
    network = teacher.network
    network.load_state_dict(dict(teacher.tensors))

    stage = Distillation(
        ours,
        pool,
        config,
        PRIOR,
        DATASET,
        health=HealthConfig(),
        collective=SingleWorker(),
        measure=lambda epoch: {},
    )
    for number in range(STEPS):
        images, labels = DATASET.train.images[:BATCH], DATASET.train.labels[:BATCH]
        losses = stage.step(number, torch.arange(BATCH))
        rng, choices = (stream(config.seed, name, 0, step=number) for name in ("matching", "pool"))
        found = plain.matching_step(theirs, PRIOR, config, DATASET, network, images, labels, rng, choices)
        torch.testing.assert_close(losses["matching_loss"], found, atol=1e-6, rtol=1e-4)
    assert_same(ours.generator, theirs.generator, before.generator)


def test_classifier_step_is_the_plain_one() -> None:
    config = replace(POOL, augmentation="color|crop|cutout|flip|scale|rotate", learning_rate=0.05)
    ours, theirs = (build_network(ARCHITECTURE, DATASET, stream(0)).train() for _ in range(2))
    before = copy.deepcopy(ours)
    optimizers = [make_optimizer(config, list(network.parameters())) for network in (ours, theirs)]
    indices = torch.arange(BATCH)
    for number in range(STEPS):
        images = DATASET.normalisation.from_bytes(DATASET.train.images[indices])
        labels = DATASET.train.labels[indices]
        [loss] = train_step(config, stack([ours]), optimizers[0], DATASET, indices, [stream(0, step=number)])
        found = plain.classifier_step(theirs, optimizers[1], config, images, labels, stream(0, step=number))
        torch.testing.assert_close(loss, found, atol=1e-6, rtol=1e-5)
    assert_same(ours, theirs, before)
