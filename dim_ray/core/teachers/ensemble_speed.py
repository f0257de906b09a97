"""Whether networks of one architecture are trained faster as one batched ensemble than one by one.

    ensemble_pays("convnet3", dataset, batch_size=10)

On a CPU a table says so. On any other device it is measured, once in a process for each kind of work.
"""

from __future__ import annotations

import functools
import time

import torch

from dim_ray.config import PoolConfig, check_architecture
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.networks import build_classifier
from dim_ray.core.networks.ensemble import stack, train_members
from dim_ray.core.teachers.teacher import make_optimizer
from dim_ray.core.training.random import stream

__all__ = ["ensemble_may_pay", "ensemble_pays", "measure_ensemble"]

# How many times as fast an ensemble of three is as its members one by one: whole steps on one core of an AMD EPYC with
# AVX-512, PyTorch 2.15, in turns; medians of 5 to 9. They vary by a tenth or two from run to run. Ensembles of five of
# the fast ones were faster still, 1.2 to 2.0 times in float32.
#
#   architecture    pixels    batch    float32    bfloat16
#   mlp                  8       10       1.19        1.26
#   mlp                 28       10       0.99        1.35
#   mlp                 28      100       1.05        1.21
#   lenet                8       10       1.07        1.12
#   lenet               28       10       1.16        1.23
#   lenet               28      100       0.68        0.90
#   convnet3             8       10       1.12        1.27
#   convnet3_bn          8       10       1.17        1.01
#   convnet3_w32         8       10       1.66        1.35
#   convnet3             8       20       1.01        1.16
#   convnet3             8       50       0.78        0.96
#   convnet3            28       10       0.79        0.85
#   convnet3            28      100       0.58        0.36
#   resnet10_w16         8       10       1.26        1.20
#   resnet10_w16        28       10       0.98        0.85
#   resnet10             8       10       0.73        0.81
#   vit_tiny             8       10       0.71        0.82
#   vit_tiny            28       10       0.46        0.60
#
# An ensemble saves what PyTorch spends on each operation beside its arithmetic, and loses by the arithmetic itself:
# its convolutions are those in groups, and its attention isn't the fused one.
_FASTER_ON_CPU = {  # by family: up to which width, batch and image size
    "convnet3": (128, 10, 8),
    "lenet": (0, 10, 28),
    "mlp": (128, 100, 28),
    "resnet10": (16, 10, 8),
}
_NUM_MEMBERS = 3
_WARM_UP_STEPS, _TIMED_STEPS = 3, 5


def ensemble_may_pay(architecture: str, device_type: str, *, batch_size: int, image_size: int) -> bool:
    """Whether networks are worth keeping together, before the device that they will be trained on is at hand.

    Args:
        architecture: Name in the registry.
        device_type: Such as ``cpu`` or ``cuda``.
        batch_size: Images of one network's step.
        image_size: Their height and width, in pixels.

    Returns:
        On a CPU, whether an ensemble was measured to pay on one core; elsewhere true, because only the device can tell.
    """
    if device_type != "cpu":
        return True
    known = check_architecture(architecture)
    if known.family not in _FASTER_ON_CPU:
        return False
    width, largest_batch, largest_image = _FASTER_ON_CPU[known.family]
    return known.width <= width and batch_size <= largest_batch and image_size <= largest_image


def ensemble_pays(architecture: str, dataset: Dataset, *, batch_size: int) -> bool:
    """Whether an ensemble is faster on the dataset's device than its members one by one.

    Args:
        architecture: Name in the registry.
        dataset: Decides device, shapes and number of classes.
        batch_size: Images of one network's step.
    """
    device = dataset.train.images.device
    if device.type == "cpu":
        return ensemble_may_pay(architecture, "cpu", batch_size=batch_size, image_size=dataset.image_size)
    shape = (dataset.num_channels, dataset.image_size, dataset.num_classes)
    return measure_ensemble(architecture, device, batch_size, shape) > 1


@functools.cache
def measure_ensemble(architecture: str, device: torch.device, batch_size: int, shape: tuple[int, int, int]) -> float:
    """Returns how many times as fast a step of three networks as an ensemble is as their steps one by one.

    Args:
        architecture: Name in the registry.
        device: Where it's measured.
        batch_size: Images of one network's step.
        shape: Channels, image size in pixels, and number of classes.
    """
    alone = _seconds(architecture, device, batch_size, shape, num_members=1)
    together = _seconds(architecture, device, batch_size, shape, num_members=_NUM_MEMBERS)
    return _NUM_MEMBERS * alone / together


def _seconds(
    architecture: str, device: torch.device, batch_size: int, shape: tuple[int, int, int], *, num_members: int
) -> float:
    """Returns the shortest time of a step on random images; other work on the device makes some of them longer."""
    channels, size, num_classes = shape
    rng = stream(0, "ensemble", device=device)
    kind = {"num_channels": channels, "num_classes": num_classes, "image_size": size}
    members = stack([build_classifier(architecture, **kind, rng=rng) for _ in range(num_members)])
    members.set_mode(training=True)
    recipe = PoolConfig()
    optimizer = make_optimizer(recipe, members.parameters)
    count = num_members * batch_size
    images = torch.randn(count, channels, size, size, generator=rng, device=device)
    labels = torch.randint(num_classes, (count,), generator=rng, device=device)
    times = []
    for _ in range(_WARM_UP_STEPS + _TIMED_STEPS):
        started = time.perf_counter()
        rngs = [stream(0, "ensemble")] * num_members
        losses = train_members(
            members, optimizer, images, labels, rngs, augmentation=recipe.augmentation, precision=recipe.precision
        )
        losses.tolist()  # waits for the device
        times.append(time.perf_counter() - started)
    return min(times[_WARM_UP_STEPS:])
