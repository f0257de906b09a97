"""Distilled generators: from the stored prior and teachers to a stored generator with its card and picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dim_ray.config import Config, GeneratorConfig, Weights, fingerprint, to_dict
from dim_ray.core.data.dataset import Dataset, to_bytes
from dim_ray.core.data.memorisation import NUM_IMAGES, measure_memorisation
from dim_ray.core.generator.matching import Distillation
from dim_ray.core.generator.networks import Generator, build_generator
from dim_ray.core.generator.pair import Pair, build_pair
from dim_ray.core.generator.sample_grid import sample_grid
from dim_ray.core.students.images import balanced_labels
from dim_ray.core.training.checkpoint import dumps, loads, restore_module
from dim_ray.core.training.loop import run_epochs
from dim_ray.core.training.ports import Collective, Ports, Reporter, SilentReporter
from dim_ray.core.training.random import stream
from dim_ray.errors import ArtifactError, ConfigError
from dim_ray.pipeline.checkpoints import shared_checkpointer
from dim_ray.pipeline.priors import load_prior, prior_fingerprint
from dim_ray.pipeline.teachers import open_pool, pool_parts, pool_teachers, teacher_fingerprint
from dim_ray.pipeline.validation import WALL_SECONDS, validate_at, validation_in
from dim_ray.pipeline.workspace import Workspace, dataset_card
from dim_ray.store.artifacts import Artifact
from dim_ray.store.files.filesystem import open_root

__all__ = [
    "GENERATOR_FILE",
    "SAMPLES_FILE",
    "distill_generator",
    "first_rung",
    "generator_bytes",
    "generator_fingerprint",
    "generator_from_artifact",
    "load_module",
    "rung_epochs",
    "stored_samples",
    "stored_weights",
    "weights_file",
]

GENERATOR_FILE = "generator.safetensors"
_AVERAGE_FILE = "average.safetensors"
SAMPLES_FILE = "samples.png"
_SAMPLES_PER_CLASS = 10
_BATCH = 100  # images generated at a time: bounds memory
_FORGOTTEN = 0.05  # share of the prior in an average
_SPLITS = ("validation_fraction", "test_fraction", "split_seed")


def generator_fingerprint(work: Workspace) -> str:
    """Return the fingerprint of the distilled generator."""
    return fingerprint("distilled", prior_fingerprint(work), pool_parts(work), work.config.matching)


def generator_bytes(config: GeneratorConfig, dataset: Dataset) -> int:
    """Return the size of a generator's file, whatever its weights."""
    generator = build_generator(
        config,
        num_classes=dataset.num_classes,
        num_channels=dataset.num_channels,
        image_size=dataset.image_size,
        rng=stream(0),
    )
    return len(dumps(generator.state_dict()))


def distill_generator(
    work: Workspace, reporter: Reporter, collective: Collective, rungs: Workspace | None = None
) -> str:
    """Distil from the stored prior and teachers, store the generator with its card and picture, return its fingerprint.

    The generator is stored before the last epoch's report, because a scheduler may end the process then. Each of
    several workers calls this, and holds its shard of the teachers.

    Args:
        work: Data, recipe and storage.
        reporter: Receiver of every epoch's measurements.
        collective: Workers.
        rungs: Workspace whose students validate at the rungs; None to validate only at the end.
    """
    config = work.config
    name, weights = generator_fingerprint(work), config.evaluation.weights
    if collective.any(work.artifacts.exists("generators", name)):  # the same answer on every worker
        epoch = config.matching.epochs
        # The others may not see it yet.
        generator = load_module(work, name, weights) if collective.rank == 0 else None
        measured = validate_at(work, epoch, generator, collective)
        reporter.report(epoch, epoch, measured)
        return name
    pair = build_pair(
        config.generator,
        config.prior,
        work.dataset,
        learning_rate=config.matching.learning_rate,
        seed=config.prior.seed,
    )
    load = pair.load_state if config.matching.adam_state == "prior" else pair.load_weights
    load(load_prior(work))
    saved = shared_checkpointer(work, name, collective)
    last = config.matching.epochs
    epochs = rung_epochs(config, len(work.dataset.train)) if rungs else [last]

    def after_epoch(epoch: int) -> Mapping[str, float]:
        if epoch not in epochs:
            return {}
        chosen = pair.average if weights == "average" else pair.generator
        own = work if epoch == last or rungs is None else rungs
        measured = validate_at(own, epoch, chosen, collective, _Beside(reporter, epoch, last))
        if epoch == last and collective.rank == 0:
            _store_generator(work, name, pair, stage.scale if stage else None, measured, saved.seconds())
            saved.clear()  # there may be no time after the report
        return {**measured, WALL_SECONDS: saved.seconds()}

    stage: Distillation | None = None
    if config.matching.epochs == 0:
        reporter.report(1, 1, after_epoch(0))
        return name
    with saved:
        stage = Distillation(
            pair,
            open_pool(work, collective),
            config.matching,
            config.prior,
            work.dataset.normalised(config.pool.normalisation),
            health=config.health,
            collective=collective,
            measure=after_epoch,
        )
        run_epochs(stage, work.dataset.train, Ports(reporter=reporter, checkpointer=saved, collective=collective))
    return name


def first_rung(config: Config, num_images: int) -> int:
    """Return the epoch of the scheduler's first rung, which may be after the last epoch.

    Before it, the moving average is still the prior's more than `_FORGOTTEN`, and says little about a trial. All trials
    of a study have the same rungs, so of searched values the slowest counts. `num_images` are those of the training
    split.
    """

    def largest(field: str, own: float) -> float:
        choice = next((choice for choice in config.study.choices if choice.field == field), None)
        return own if choice is None else max([*choice.values, *([own] if choice.when else [])])

    decay = largest("generator.ema_decay", config.generator.ema_decay) if config.evaluation.weights == "average" else 0
    steps = max(1, num_images // int(largest("matching.batch_size", config.matching.batch_size)))
    epochs = math.ceil(math.log(_FORGOTTEN) / math.log(decay) / steps) if decay else 0
    return max(config.study.grace_epochs, epochs)


def rung_epochs(config: Config, num_images: int) -> list[int]:
    """Return the epochs after which the generator is validated: the scheduler's rungs, and the last epoch."""
    epochs, rung = [], first_rung(config, num_images)
    while config.study.scheduler != "none" and rung < config.matching.epochs:
        epochs.append(rung)
        rung *= config.study.reduction_factor
    return [*epochs, config.matching.epochs]


def stored_samples(artifact: Artifact) -> dict[str, bytes]:
    """Return the picture in a generator's folder by name; an exported folder doesn't seal it, and may have lost it."""
    picture = open_root(artifact.uri).read(SAMPLES_FILE)
    return {} if picture is None else {SAMPLES_FILE: picture}


def stored_weights(card: Mapping[str, Any], wanted: Weights) -> Weights:
    """Return the wanted weights if the generator has them: raw if it has no average."""
    return wanted if wanted == "raw" or _AVERAGE_FILE in card["files"] else "raw"


def weights_file(weights: Weights) -> str:
    """Return the name of the file of a generator's weights."""
    return _AVERAGE_FILE if weights == "average" else GENERATOR_FILE


def load_module(work: Workspace, name: str, weights: Weights = "average") -> Generator:
    """Return the generator of a fingerprint on the dataset's device, in eval mode; weights as for `stored_weights`."""
    artifact = work.artifacts.read("generators", name)
    return generator_from_artifact(artifact, weights, work.dataset.device)


def generator_from_artifact(artifact: Artifact, weights: Weights, device: torch.device | str = "cpu") -> Generator:
    """Build a generator from its card and its file.

    Raises:
        ArtifactError: The file doesn't fit the card, or this version doesn't know the card.
    """
    card, name = artifact.card, weights_file(stored_weights(artifact.card, weights))
    tensors, _ = loads(artifact.files[name], origin=f"{artifact.uri}/{name}")
    try:
        settings = {**card["generator"], "refinements": tuple(card["generator"]["refinements"])}
        generator = build_generator(
            GeneratorConfig(**settings),
            num_classes=len(card["dataset"]["class_names"]),
            num_channels=card["dataset"]["num_channels"],
            image_size=card["dataset"]["image_size"],
            rng=torch.Generator(device),
        )
        restore_module(generator, tensors)
    except (ConfigError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).replace("\n", " ").replace("\t", "")
        raise ArtifactError(
            f"the card of {artifact.uri} doesn't describe the network in {name} ({reason}): it was altered, or "
            "made by another version of dim_ray; bring back a copy, or upgrade dim_ray."
        ) from error
    return generator.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Beside(SilentReporter):
    """A Reporter of students that validate after an epoch, for the distillation's own."""

    reporter: Reporter
    epoch: int
    epochs: int

    def advance(self, done: float, total: int, note: str = "") -> None:
        self.reporter.advance(self.epoch, max(1, self.epochs), f"validation {done / total:.0%}")


def _generated(work: Workspace, pair: Pair) -> Tensor:
    """Return images of all classes in turn, (N, C, H, W) uint8."""
    device = work.dataset.device
    rng = stream(work.config.matching.seed, "memorisation", device=device)
    labels = torch.arange(NUM_IMAGES, device=device) % work.dataset.num_classes
    with torch.no_grad():
        parts = [pair.average.eval().sample(part, rng) for part in labels.split(_BATCH)]
    return to_bytes(torch.cat(parts))


def _store_generator(
    work: Workspace, name: str, pair: Pair, scale: float | None, measured: Mapping[str, float], seconds: float
) -> None:
    config = work.config
    accuracy = validation_in(measured) or {}
    card = {
        "generator": to_dict(replace(config.generator, latent_dim=pair.generator.latent_dim)),
        "value_range": [-1.0, 1.0],
        "dataset": dataset_card(work.dataset),
        "hub_dataset": config.data.hub_name,
        "splits": {name: getattr(config.data, name) for name in _SPLITS},
        "prior": prior_fingerprint(work),
        "teachers": [teacher_fingerprint(work, number) for number in pool_teachers(config)],
        "training": {
            "architectures": list(config.networks.teachers),
            "pool": to_dict(config.pool),
            "prior": to_dict(config.prior),
            "matching": to_dict(config.matching),
            "matching_scale": scale,
        },
        "validation": {
            **accuracy,
            "images_per_class": list(config.study.selection_images_per_class),
            "weights": config.evaluation.weights,
        },
        "memorisation": asdict(measure_memorisation(_generated(work, pair), work.dataset)),
        "wall_seconds": seconds,
    }
    labels = balanced_labels(work.dataset.num_classes, _SAMPLES_PER_CLASS, work.dataset.device)
    with torch.no_grad():
        images = pair.average.eval().sample(labels, stream(config.matching.seed, "samples", device=labels.device))
    images = to_bytes(images).cpu()
    grid = images.view(work.dataset.num_classes, _SAMPLES_PER_CLASS, *images.shape[1:])
    files = {
        GENERATOR_FILE: dumps(pair.generator.state_dict()),
        SAMPLES_FILE: sample_grid(grid, work.dataset.class_names),
    }
    if pair.average is not pair.generator:
        files[_AVERAGE_FILE] = dumps(pair.average.state_dict())
    work.artifacts.write("generators", name, files, card)
