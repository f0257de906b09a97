"""Benchmarks of training steps at MNIST's shapes, each beside its plain transcription."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import Case
from dim_ray.config import (
    EvaluationConfig,
    GeneratorConfig,
    HealthConfig,
    MatchingConfig,
    PoolConfig,
    Precision,
    PriorConfig,
)
from dim_ray.core.data.dataset import Dataset, Normalisation, signed
from dim_ray.core.data.splits import Split
from dim_ray.core.generator.adversarial import AdversarialTraining
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.networks.classifiers import build_network
from dim_ray.core.networks.ensemble import stack, train_members
from dim_ray.core.students.student import student_optimizer
from dim_ray.core.teachers.online import OnlinePool
from dim_ray.core.teachers.pool import StoredPool, TeacherPool
from dim_ray.core.teachers.teacher import Teacher, make_optimizer, train_step
from dim_ray.core.training.ports import Collective, SingleWorker
from dim_ray.core.training.precision import resolve_precision
from dim_ray.core.training.random import stream

__all__ = [
    "TRAINING",
    "Setting",
    "ensemble_step",
    "matching_case",
    "matching_stage",
    "noise_images",
    "prior_stage",
    "untrained_teacher",
]

Step = Callable[[int, Tensor], object]
"""Takes step number and image indices (B,)."""

_IMAGES = 4096
_STEPS_PER_EPOCH = 1000  # of a distillation: how often an online pool begins anew
_LAZY = 4  # steps from one penalty to the next, where it isn't in each
_MEMBERS = 5  # of an ensemble of students


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all benchmarks of a run have in common."""

    device: torch.device
    capacity: int = 196
    """Of generator and discriminator."""
    batch_size: int = 64
    """Of adversarial and matching steps."""
    student_batch_size: int = 100
    architectures: tuple[str, ...] = ("convnet3", "resnet18")
    """Of students, and of pools of different size."""
    is_compiling: bool = False
    """Whether students are measured with torch.compile, too."""
    channels: int = 1
    image_size: int = 28
    num_evaluations: int = 1_000_000
    """Rows of the large store."""

    @property
    def precision(self) -> Precision:
        """What `auto` is on this device."""
        return resolve_precision("auto", self.device)


def noise_images(setting: Setting, count: int = _IMAGES) -> Dataset:
    """Return noise as a data set of ten classes: a step takes no longer for images of something."""
    rng = stream(0, "benchmark")
    shape = (count, setting.channels, setting.image_size, setting.image_size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    split = Split(images=images, labels=torch.arange(count) % 10)
    return Dataset(
        name="noise",
        train=split,
        validation=split,
        test=split,
        class_names=tuple(map(str, range(10))),
        content_digest="noise",
        normalisation=Normalisation(mean=(0.5,) * setting.channels, std=(0.25,) * setting.channels),
        digest="0" * 16,
    ).to(setting.device)


def matching_case(
    setting: Setting,
    benchmark: str,
    variant: str,
    pool: TeacherPool,
    dataset: Dataset,
    collective: Collective | None = None,
) -> Case:
    """Return the steps of a distillation that draws from this pool, by one worker unless others are given."""
    _, stage = matching_stage(setting, pool, dataset, collective or SingleWorker())
    return _case(benchmark, variant, setting, dataset, stage.step, setting.precision)


def untrained_teacher(architecture: str, dataset: Dataset, number: int) -> Teacher:
    """Return a teacher of one snapshot: a step takes no longer for one that knows something."""
    network = build_network(architecture, dataset, stream(number, device=dataset.train.images.device))
    snapshot = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    return Teacher(architecture=architecture, snapshots=[snapshot], steps=[1], validation_accuracy=0.0)


def _adversarial(setting: Setting) -> list[Case]:
    dataset = noise_images(setting)
    paper = PriorConfig()
    hinge, lazy = replace(paper, loss="hinge"), replace(paper, gradient_penalty_every=_LAZY)
    relativistic = replace(lazy, loss="relativistic")
    plain_pair = plain.make_plain(_pair(setting, paper, dataset))

    def plain_step(number: int, indices: Tensor) -> None:
        real, labels = signed(dataset.train.images[indices]), dataset.train.labels[indices]
        rng = stream(0, step=number, device=setting.device)
        plain.adversarial_step(plain_pair, paper, real, labels, labels, rng)

    cases = [_case("adversarial step", "plain, float32", setting, dataset, plain_step)]
    variants: list[tuple[str, PriorConfig, Precision]] = [
        ("WGAN-GP, float32", paper, "float32"),
        (f"WGAN-GP, {setting.precision}", paper, setting.precision),
        (f"WGAN-GP, penalty every {_LAZY}, {setting.precision}", lazy, setting.precision),
        (f"hinge, {setting.precision}", hinge, setting.precision),
        (f"residual, relativistic, penalty every {_LAZY}, {setting.precision}", relativistic, setting.precision),
    ]
    for name, config, precision in dict.fromkeys(variants):
        stage = prior_stage(setting, replace(config, precision=precision), dataset, SingleWorker())
        steps = config.gradient_penalty_every
        cases.append(_case("adversarial step", name, setting, dataset, stage.step, precision, steps=steps))
    return cases


def _matching(setting: Setting) -> list[Case]:
    dataset = noise_images(setting)
    prior_config, config = PriorConfig(), MatchingConfig()
    pool_config = PoolConfig(kind="online")
    plain_pair = plain.make_plain(_pair(setting, prior_config, dataset))
    online = OnlinePool(pool_config, ("convnet3",), dataset, steps_per_epoch=_STEPS_PER_EPOCH, rank=0)

    def plain_step(number: int, indices: Tensor) -> None:
        images, labels = dataset.train.images[indices], dataset.train.labels[indices]
        rng = stream(0, step=number, device=setting.device)
        [teacher] = online.draw(number, 1, stream(1, step=number))
        plain.matching_step(
            plain_pair,
            prior_config,
            config,
            dataset,
            teacher.network,
            images,
            labels,
            rng,
            stream(2, step=number, device=setting.device),
        )

    name = "plain, float32, online pool"
    cases = [_case("matching step", name, setting, dataset, plain_step)]
    half = replace(pool_config, precision=setting.precision)
    pools: dict[str, TeacherPool] = {
        "stored pool": StoredPool([untrained_teacher("convnet3", dataset, 0)], dataset),
        "online pool": OnlinePool(half, ("convnet3",), dataset, steps_per_epoch=_STEPS_PER_EPOCH, rank=0),
    }
    for name, pool in pools.items():
        cases.append(matching_case(setting, "matching step", f"{setting.precision}, {name}", pool, dataset))
    return cases


def prior_stage(setting: Setting, config: PriorConfig, dataset: Dataset, collective: Collective) -> AdversarialTraining:
    """Return a prior's training: hinge of spectral norms, relativistic of residual blocks, else of layer norms."""
    return AdversarialTraining(_pair(setting, config, dataset), config, dataset, HealthConfig(), collective)


def matching_stage(
    setting: Setting,
    pool: TeacherPool,
    dataset: Dataset,
    collective: Collective,
    config: MatchingConfig | None = None,
) -> tuple[Pair, Distillation]:
    """Return a pair, and its distillation."""
    prior_config = PriorConfig(precision=setting.precision)
    config = replace(config or MatchingConfig(), precision=setting.precision)
    pair = _pair(setting, prior_config, dataset)
    stage = Distillation(
        pair,
        pool,
        config,
        prior_config,
        dataset,
        health=HealthConfig(),
        collective=collective,
        measure=lambda epoch: {},
    )
    return pair, stage


def _teacher(setting: Setting) -> list[Case]:
    return _classifier(setting, "teacher step", "convnet3", PoolConfig(), PoolConfig().batch_size)


def _student(setting: Setting) -> list[Case]:
    recipe = PoolConfig(augmentation=EvaluationConfig().augmentation)
    cases = []
    for architecture in setting.architectures:
        name = f"student step, {architecture}"
        cases += _classifier(setting, name, architecture, recipe, setting.student_batch_size)
        cases += _ensemble(setting, name, architecture)
    return cases


def _ensemble(setting: Setting, name: str, architecture: str) -> list[Case]:
    """Return steps of several students at once, whose items are the images of all of them."""
    setting = replace(setting, batch_size=_MEMBERS * setting.student_batch_size)
    dataset = noise_images(setting)
    cases = []
    for precision in dict.fromkeys(("float32", setting.precision)):
        step = ensemble_step(architecture, EvaluationConfig(precision=precision), setting, dataset)
        cases.append(_case(name, f"ensemble of {_MEMBERS}, {precision}", setting, dataset, step, precision))
    return cases


def ensemble_step(
    architecture: str, config: EvaluationConfig, setting: Setting, dataset: Dataset, num_members: int = _MEMBERS
) -> Step:
    """Return a step of students at once."""
    seeds = range(num_members)
    members = stack([build_network(architecture, dataset, stream(seed, device=setting.device)) for seed in seeds])
    members.set_mode(training=True)
    optimizer = student_optimizer(config, members.parameters)

    def step(number: int, indices: Tensor) -> None:
        images = dataset.normalisation.from_bytes(dataset.train.images[indices])
        labels = dataset.train.labels[indices]
        rngs = [stream(seed, step=number, device=setting.device) for seed in seeds]
        train_members(
            members, optimizer, images, labels, rngs, augmentation=config.augmentation, precision=config.precision
        )

    return step


def _classifier(setting: Setting, name: str, architecture: str, config: PoolConfig, batch_size: int) -> list[Case]:
    setting = replace(setting, batch_size=batch_size)
    dataset = noise_images(setting)
    network = build_network(architecture, dataset, stream(0, device=setting.device)).train()
    optimizer = torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay, foreach=False
    )

    def plain_step(number: int, indices: Tensor) -> None:
        images = dataset.normalisation.from_bytes(dataset.train.images[indices])
        labels = dataset.train.labels[indices]
        plain.classifier_step(network, optimizer, config, images, labels, stream(0, step=number, device=setting.device))

    cases = [_case(name, "plain, float32", setting, dataset, plain_step)]
    for precision in dict.fromkeys(("float32", setting.precision)):
        own = replace(config, precision=precision)
        step = _classifier_step(architecture, own, setting, dataset)
        cases.append(_case(name, precision, setting, dataset, step, precision))
        if setting.is_compiling:
            step = _classifier_step(architecture, own, setting, dataset, is_compiled=True)
            cases.append(_case(name, f"{precision}, compiled", setting, dataset, step, precision))
    return cases


def _classifier_step(
    architecture: str, config: PoolConfig, setting: Setting, dataset: Dataset, *, is_compiled: bool = False
) -> Step:
    network = build_network(architecture, dataset, stream(0, device=setting.device)).train()
    members = stack([network])
    optimizer = make_optimizer(config, members.parameters)
    if is_compiled:
        network.compile()

    def step(number: int, indices: Tensor) -> None:
        train_step(config, members, optimizer, dataset, indices, [stream(0, step=number, device=setting.device)])

    return step


def _sampling(setting: Setting) -> list[Case]:
    dataset = noise_images(setting, count=1)
    generator = _pair(setting, PriorConfig(), dataset).generator.eval()
    labels = (torch.arange(500) % 10).to(setting.device)
    rng = stream(0, device=setting.device)

    @torch.no_grad()
    def sample() -> Tensor:
        return generator.sample(labels, rng)

    return [Case(benchmark="sampling", variant="float32", call=sample, items=len(labels))]


TRAINING: Mapping[str, Callable[[Setting], list[Case]]] = {
    "adversarial": _adversarial,
    "matching": _matching,
    "teacher": _teacher,
    "student": _student,
    "sampling": _sampling,
}
"""By name."""


def _pair(setting: Setting, config: PriorConfig, dataset: Dataset) -> Pair:
    generator_config = GeneratorConfig(capacity=setting.capacity)
    if config.loss == "hinge":
        generator_config = replace(generator_config, discriminator_norm="spectral")
    if config.loss == "relativistic":
        generator_config = replace(generator_config, family="residual", discriminator_norm="none")
    return build_pair(generator_config, config, dataset, learning_rate=config.learning_rate, seed=0)


def _case(
    benchmark: str,
    variant: str,
    setting: Setting,
    dataset: Dataset,
    step: Step,
    precision: Precision = "float32",
    *,
    steps: int = 1,
) -> Case:
    """Wrap a step so that every call takes the next ones, each with its own images."""
    count = 0

    def call() -> None:
        nonlocal count
        for _ in range(steps):
            step(count, _indices(count, setting.batch_size, dataset))
            count += 1

    return Case(
        benchmark=benchmark,
        variant=variant,
        call=call,
        items=steps * setting.batch_size,
        precision=precision,
    )


def _indices(number: int, batch_size: int, dataset: Dataset) -> Tensor:
    device = dataset.train.labels.device
    return (torch.arange(batch_size, device=device) + number * batch_size) % len(dataset.train)
