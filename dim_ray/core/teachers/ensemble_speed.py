"""Whether to train networks of one architecture as one batched ensemble, or one by one.

    ensemble_pays(config.pool, "convnet3", dataset, batch_size=10)

`evaluation.students_at_once` and `pool.teachers_at_once` decide where they are set. Otherwise, on a CPU, networks are
trained as an ensemble if one network's step passes its batch forward with at most 32 million multiply-accumulates: an
ensemble saves PyTorch's overhead per operation, which is most of the time of such small steps, but its arithmetic is
slower. On any other device both ways are timed, once per process and kind of step, with the networks' own recipe.
"""

from __future__ import annotations

import functools
import time

import torch

from dim_ray.config import EvaluationConfig, PoolConfig
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks import build_classifier
from dim_ray.core.networks.classifiers import forward_macs
from dim_ray.core.networks.ensemble import stack, train_members
from dim_ray.core.students.student import student_optimizer
from dim_ray.core.teachers.teacher import make_optimizer
from dim_ray.core.training.random import stream

__all__ = ["ensemble_may_pay", "ensemble_pays", "measure_ensemble"]

# On one core of an AMD EPYC with AVX-512, PyTorch 2.15, ensembles of three mlp, lenet, convnet3, resnet10 and vit_tiny
# trained 1.0 to 1.7 times as fast as their members one by one up to here, and mostly slower above it.
_MOST_MACS_ON_CPU = 32e6
Recipe = PoolConfig | EvaluationConfig

_NUM_MEMBERS = 3
_WARM_UP_STEPS, _TIMED_STEPS = 3, 5


def ensemble_may_pay(architecture: str, dataset: Dataset, device_type: str, *, batch_size: int) -> bool:
    """Return whether to keep networks together for a kind of device, such as ``cpu``, that isn't at hand.

    For any other device than a CPU, `ensemble_pays` decides on the device itself.
    """
    return device_type != "cpu" or batch_size * forward_macs(architecture, dataset) <= _MOST_MACS_ON_CPU


def ensemble_pays(recipe: Recipe, architecture: str, dataset: Dataset, *, batch_size: int) -> bool:
    """Return whether an ensemble is faster on the dataset's device than its members one by one."""
    device = dataset.device
    if device.type == "cpu":
        return ensemble_may_pay(architecture, dataset, "cpu", batch_size=batch_size)
    shape = (dataset.num_channels, dataset.image_size, dataset.num_classes)
    return measure_ensemble(recipe, architecture, device, batch_size, shape) > 1


@functools.cache
def measure_ensemble(
    recipe: Recipe, architecture: str, device: torch.device, batch_size: int, shape: tuple[int, int, int]
) -> float:
    """Return how many times as fast three networks train as an ensemble than one by one.

    `shape` is channels, image size in pixels, and number of classes.
    """
    channels, size, num_classes = shape

    def seconds(num_members: int) -> float:
        """Return the shortest time of a step on random images; other work on the device can only make it longer."""
        rng = stream(0, "ensemble", device=device)
        kind = {"num_channels": channels, "num_classes": num_classes, "image_size": size}
        members = stack([build_classifier(architecture, **kind, rng=rng) for _ in range(num_members)])
        members.set_mode(training=True)
        optimizer = (
            student_optimizer(recipe, members.parameters)
            if isinstance(recipe, EvaluationConfig)
            else make_optimizer(recipe, members.parameters)
        )
        count = num_members * batch_size
        images = torch.randn(count, channels, size, size, generator=rng, device=device)
        labels = torch.randint(num_classes, (count,), generator=rng, device=device)
        times = []
        for _ in range(_WARM_UP_STEPS + _TIMED_STEPS):
            started = time.perf_counter()
            rngs = [stream(0, "ensemble", device=device)] * num_members
            losses = train_members(
                members, optimizer, images, labels, rngs, augmentation=recipe.augmentation, precision=recipe.precision
            )
            losses.tolist()  # waits for the device
            times.append(time.perf_counter() - started)
        return min(times[_WARM_UP_STEPS:])

    return _NUM_MEMBERS * seconds(1) / seconds(_NUM_MEMBERS)
