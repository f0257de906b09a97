"""Image streams of students: generated or real images, fresh in every epoch or a fixed set.

image_stream = make_image_stream("on_the_fly", generator=generator, dataset=dataset, budget=budget, seed=0)
images, labels = image_stream(0)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dim_ray.config import EvaluationConfig, Precision
from dim_ray.config import Protocol as ProtocolName
from dim_ray.core.data.dataset import Dataset, Split, to_bytes
from dim_ray.core.generator.networks import Generator
from dim_ray.core.students.budgets import Budget
from dim_ray.core.training.precision import autocast
from dim_ray.core.training.random import stream

__all__ = [
    "ImageStream",
    "Labelling",
    "MatchingLatents",
    "TeacherHelp",
    "balanced_labels",
    "choose",
    "make_image_stream",
]

ImageStream = Callable[[int], tuple[Tensor, Tensor]]
"""From an epoch's number to N normalised images (N, C, H, W) float32 and their labels, on the dataset's device.

N is the budget's `images_per_epoch`. Labels are (N,) int64, or a labeller's (N, K) float32 probabilities.
"""

Labelling = Callable[[Tensor], Tensor]
"""From normalised images (N, C, H, W) float32 to probabilities (N, K) float32."""

MatchingLatents = Callable[[Generator, Tensor, Tensor, int], Tensor]
"""From a generator, noise (N, latent_dim), labels (N,) and a seed to latents (N, latent_dim)."""


@dataclass(frozen=True, kw_only=True)
class TeacherHelp:
    """What teachers do for a student's images."""

    label: Labelling | None = None
    """Gives soft labels, and chooses among candidates."""
    match: MatchingLatents | None = None
    """Moves the latents of a fixed set."""


_NO_HELP = TeacherHelp()

_FLOAT_BYTES = 4
_MAP_BYTES = 2**28  # of a generator's largest maps, which bound the images of a pass
_MAP_BYTES_ON_CPU = 2**24  # a cache's size
_AHEAD_BYTES = 2**24  # of a student's images that are generated at once, epoch after epoch


def make_image_stream(
    config: EvaluationConfig,
    protocol: ProtocolName,
    *,
    generator: Generator | None,
    dataset: Dataset,
    images_per_class: int,
    budget: Budget,
    seed: int,
    teachers: TeacherHelp = _NO_HELP,
) -> ImageStream:
    """Return the image stream of one student.

    Args:
        config: Labels, candidates, and for images on the fly their precision and the quirk `uniform_labels`, with which
            each of their labels is drawn uniformly, instead of equally many of each class.
        protocol: Name of the protocol.
        generator: Generator on the dataset's device, for `on_the_fly` and `fixed`, which use it in eval mode.
        dataset: Real images, and the normalisation of both.
        images_per_class: IPC.
        budget: Epochs and images of an epoch.
        seed: Seed of noise and of the choice of real images.
        teachers: What `config` asks of them. They see images before augmentation, and those of a fixed set once.

    Raises:
        ValueError: The protocol needs a generator, or `config` teachers, and there is none.
    """
    is_generated = protocol in ("on_the_fly", "fixed")
    if is_generated and generator is None:
        raise ValueError(f"protocol {protocol!r} needs a generator")
    labeller = teachers.label
    if labeller is None and (config.labels == "soft" or (is_generated and config.candidates > 1)):
        raise ValueError("soft labels and candidates need teachers")
    if teachers.match is None and protocol == "fixed" and config.latent_steps:
        raise ValueError("latents are matched with teachers")
    if generator is not None and protocol == "on_the_fly":
        draw = _generated(config, generator, dataset, budget, seed, labeller)
    elif protocol == "real_on_the_fly":
        draw = _real(dataset, budget, seed)
    else:
        images, labels = _image_set(config, protocol, generator, dataset, images_per_class, seed, teachers)
        return _dealt(images, labeller(images) if labeller and config.labels == "soft" else labels, budget, seed)
    if labeller is None or config.labels == "hard":
        return draw

    def labelled(epoch: int) -> tuple[Tensor, Tensor]:
        images, _ = draw(epoch)
        return images, labeller(images)

    return labelled


def balanced_labels(num_classes: int, images_per_class: int, device: torch.device | str = "cpu") -> Tensor:
    """Return (K * IPC,) int64 labels, class after class."""
    return torch.arange(num_classes, device=device).repeat_interleave(images_per_class)


def choose(shares: Tensor, labels: Tensor) -> Tensor:
    """Return which candidates are kept, one for each of N labels: indices (N,) into all of them.

    It is the first that the teachers call its class, or else the one to which they give it the largest share.

    Args:
        shares: The teachers' probabilities (N * C, K) of C candidates for each label, one label's after another's.
        labels: (N,) int64.
    """
    count = len(labels)
    shares = shares.view(count, -1, shares.shape[1])
    own = shares.gather(2, labels.view(-1, 1, 1).expand(-1, shares.shape[1], 1)).squeeze(2)
    is_right = shares.argmax(dim=2) == labels[:, None]
    # A right one counts more than any wrong one, and the first of them most.
    order = torch.arange(shares.shape[1], 0, -1, device=shares.device)
    chosen = torch.where(is_right, 1 + order, own).argmax(dim=1)
    return torch.arange(count, device=labels.device) * shares.shape[1] + chosen


def _generated(
    config: EvaluationConfig,
    generator: Generator,
    dataset: Dataset,
    budget: Budget,
    seed: int,
    labeller: Labelling | None,
) -> ImageStream:
    device, num_classes, count = dataset.train.labels.device, dataset.num_classes, budget.images_per_epoch
    generator = generator.folded()
    epoch_bytes = config.candidates * count * dataset.num_channels * dataset.image_size**2 * _FLOAT_BYTES
    at_once = max(1, _AHEAD_BYTES // max(1, epoch_bytes))
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def draw_labels(epoch: int) -> Tensor:
        if "uniform_labels" in config.all_quirks:
            rng = stream(seed, "labels", step=epoch, device=device)
            return torch.randint(num_classes, (count,), generator=rng, device=device)
        return _dealt_labels(num_classes, count, epoch, device)[0]

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        if epoch not in kept:
            kept.clear()
            first = epoch // at_once * at_once
            epochs = range(first, min(first + at_once, budget.epochs))
            labels = [draw_labels(number) for number in epochs]
            drawn = config.candidates * count
            noise = torch.cat([_noise(generator, drawn, seed, number, device) for number in epochs])
            images = _chosen(generator, noise, torch.cat(labels), dataset, config.precision, labeller)
            normal = dataset.normalisation.from_signed(images).split(count)
            kept.update(zip(epochs, zip(normal, labels, strict=True), strict=True))
        return kept[epoch]

    return draw


def _real(dataset: Dataset, budget: Budget, seed: int) -> ImageStream:
    split, num_classes = dataset.train, dataset.num_classes
    draws = _real_draws(split, num_classes, math.ceil(budget.images_drawn / num_classes), seed)

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        labels, turns = _dealt_labels(num_classes, budget.images_per_epoch, epoch, split.labels.device)
        return dataset.normalisation.from_bytes(split.images[draws[labels, turns]]), labels

    return draw


def _image_set(
    config: EvaluationConfig,
    protocol: ProtocolName,
    generator: Generator | None,
    dataset: Dataset,
    images_per_class: int,
    seed: int,
    teachers: TeacherHelp,
) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a student that has the same ones in every epoch."""
    split = dataset.train
    if protocol == "real_full":
        return dataset.normalisation.from_bytes(split.images), split.labels
    labels = balanced_labels(dataset.num_classes, images_per_class, split.labels.device)
    if generator is not None and protocol == "fixed":  # stored and rounded, as real images are
        noise = _noise(generator.eval(), config.candidates * len(labels), seed, 0, labels.device)
        if teachers.match and config.latent_steps:
            noise = teachers.match(generator, noise, labels, seed)
        stored = to_bytes(_chosen(generator, noise, labels, dataset, "float32", teachers.label))
    else:
        stored = split.images[_real_draws(split, dataset.num_classes, images_per_class, seed).flatten()]
    return dataset.normalisation.from_bytes(stored), labels


def _dealt(images: Tensor, labels: Tensor, budget: Budget, seed: int) -> ImageStream:
    """Return the stream that deals from a set.

    If an epoch is longer or shorter than the set, it continues where the last one ended in a shuffled set, which is
    shuffled again once it is used up: the number of distinct images is exactly the budget's.
    """
    size, count = len(images), budget.images_per_epoch
    if count == size:
        return lambda epoch: (images, labels)

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        first_round, last_round = epoch * count // size, (epoch * count + count - 1) // size
        orders = [
            torch.randperm(
                size, generator=stream(seed, "deck", step=number, device=images.device), device=images.device
            )
            for number in range(first_round, last_round + 1)
        ]
        start = epoch * count - first_round * size
        indices = torch.cat(orders)[start : start + count]
        return images[indices], labels[indices]

    return draw


def _dealt_labels(num_classes: int, count: int, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the labels of an epoch, class after class, and the running number of each image in its class.

    Classes take turns across epochs, so none ever has more than one image more than another. Both are (count,) int64;
    running numbers count from the first epoch.
    """
    numbers = torch.arange(epoch * count, (epoch + 1) * count, device=device)
    labels, order = torch.sort(numbers % num_classes, stable=True)
    return labels, (numbers // num_classes)[order]


def _noise(generator: Generator, count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    return generator.noise(count, stream(seed, "images", step=epoch, device=device))


def _chosen(
    generator: Generator,
    noise: Tensor,
    labels: Tensor,
    dataset: Dataset,
    precision: Precision,
    labeller: Labelling | None,
) -> Tensor:
    """Return an image in [-1, 1] for each label (N,); teachers choose of C candidates, of noise (N * C, latent_dim)."""
    candidates = len(noise) // len(labels)
    images = _generate(generator, noise, labels.repeat_interleave(candidates), precision)
    if labeller is None or candidates == 1:
        return images
    return images[choose(labeller(dataset.normalisation.from_signed(images)), labels)]


@torch.no_grad()
def _generate(generator: Generator, noise: Tensor, labels: Tensor, precision: Precision) -> Tensor:
    """Return the images of noise (N, latent_dim) and labels (N,): (N, C, H, W) float32 in [-1, 1]."""
    most_bytes = _MAP_BYTES_ON_CPU if labels.device.type == "cpu" else _MAP_BYTES
    count = max(1, most_bytes // (generator.to_image.in_channels * generator.inner_size**2 * _FLOAT_BYTES))
    with autocast(precision, labels.device):
        parts = [generator(*own) for own in zip(noise.split(count), labels.split(count), strict=True)]
    return torch.cat(parts).float().contiguous()  # students are faster with channels first


def _real_draws(split: Split, num_classes: int, draws_per_class: int, seed: int) -> Tensor:
    """Return indices (K, draws_per_class) into the split: each class's images in random order, again and again.

    No image repeats before all of its class were drawn: the number of distinct images is exactly the budget's.
    """
    device = split.labels.device
    rng = stream(seed, "real", device=device)
    per_class = []
    for label in range(num_classes):
        members = (split.labels == label).nonzero().squeeze(1)
        rounds = math.ceil(draws_per_class / len(members))
        orders = [members[torch.randperm(len(members), generator=rng, device=device)] for _ in range(rounds)]
        per_class.append(torch.cat(orders)[:draws_per_class])
    return torch.stack(per_class)
