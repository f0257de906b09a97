"""The gradients of a step do not depend on the number of workers, where the draws are the same."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from dim_ray.core.data.augment import draw_augmentation
from dim_ray.core.data.dataset import signed
from dim_ray.core.generator.adversarial import discriminator_steps, generator_loss, generator_step
from dim_ray.core.generator.matching import matching_loss
from dim_ray.core.generator.pair import Pair
from dim_ray.core.networks.batch_norm import share_batch_norm
from dim_ray.core.teachers.pool import StoredPool, shard, shard_weight
from dim_ray.core.training.ports import Collective
from dim_ray.core.training.random import stream
from tests.helpers.gloo_workers import workers
from tests.helpers.tiny import MATCHING, PRIOR, make_dataset, make_plain_pair, make_teachers

DATASET = make_dataset()
BATCH = 12
DISTINCT = 8
LARGEST_ERROR = 1e-5  # of a gradient, relative to its length


class SlicesOfGlobalDraws(ExitStack):
    """Lets every worker draw for the whole batch as one worker would, and keep its own slice."""

    def __init__(self, collective: Collective) -> None:
        super().__init__()
        for name in ("randn", "rand"):
            self.enter_context(mock.patch.object(torch, name, self._sliced(getattr(torch, name), collective)))

    @staticmethod
    def _sliced(draw: Any, collective: Collective) -> Any:
        def sliced(count: int, *shape: int, **options: Any) -> Tensor:
            whole: Tensor = draw(count * collective.num_workers, *shape, **options)
            return whole.chunk(collective.num_workers)[collective.rank]

        return sliced


def gradients(*networks: torch.nn.Module) -> Tensor:
    found = [parameter.grad for network in networks for parameter in network.parameters()]
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None])


def start(collective: Collective) -> Pair:
    pair = make_plain_pair(DATASET)
    pair.generator.train()
    share_batch_norm(pair.generator, collective)
    return pair


def adversarial_gradients(collective: Collective) -> Tensor:
    pair = start(collective)
    images, labels = (whole[:BATCH].chunk(collective.num_workers)[collective.rank] for whole in (
        DATASET.train.images, DATASET.train.labels
    ))  # fmt: skip
    rng = stream(0, "draws")
    with SlicesOfGlobalDraws(collective):
        discriminator_steps(pair, PRIOR, signed(images), labels, rng, collective, step=0)
        critic = gradients(pair.discriminator)
        loss, _ = generator_loss(pair, PRIOR, labels, rng, (signed(images), labels))
        generator_step(pair, loss, collective)
    return torch.cat([critic, gradients(pair.generator)])


def matching_gradients(collective: Collective, num_teachers: int) -> Tensor:
    """Take a step against every teacher of the worker's shard; the slices of all workers have the same images."""
    pair, numbers = start(collective), range(num_teachers)
    teachers = make_teachers(DATASET, [1] * num_teachers)
    copies = 6 // collective.num_workers  # of each image in a slice: the batch has one size
    labels = DATASET.train.labels[:DISTINCT].repeat(copies)
    images = DATASET.train.images[:DISTINCT].repeat(copies, 1, 1, 1)
    noise = torch.randn(DISTINCT, pair.generator.latent_dim, generator=stream(1)).repeat(copies, 1)
    with mock.patch.object(torch, "randn", return_value=noise):
        adversarial, fake = generator_loss(pair, PRIOR, labels, stream(0), (signed(images), labels))
    own: Sequence[int] = shard(numbers, collective)
    augmentation = draw_augmentation(MATCHING.augmentation, stream(0))
    drawn = [
        (teacher, augmentation)
        for number in own
        for teacher in StoredPool([teachers[number]], DATASET).draw(0, 1, stream(0))
    ]
    matched = matching_loss(drawn, MATCHING, DATASET, images, fake, labels) if drawn else torch.zeros(())
    weight = MATCHING.weight * shard_weight(numbers, collective)
    generator_step(pair, MATCHING.adversarial_weight * adversarial + weight * matched, collective)
    return gradients(pair.generator)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_adversarial_gradients_are_those_of_one_worker(num_workers: int) -> None:
    [expected] = workers().run(1, adversarial_gradients)
    for found in workers().run(num_workers, adversarial_gradients):
        assert (found - expected).norm() < LARGEST_ERROR * expected.norm()


@pytest.mark.parametrize("num_teachers", [1, 3, 5, 6])
@pytest.mark.parametrize("num_workers", [2, 3])
def test_every_teacher_counts_the_same_however_many_workers_hold_them(num_teachers: int, num_workers: int) -> None:
    [expected] = workers().run(1, matching_gradients, num_teachers)
    for found in workers().run(num_workers, matching_gradients, num_teachers):
        assert (found - expected).norm() < LARGEST_ERROR * expected.norm()
