"""The teachers that a generator was matched against, and how they help students: labels, candidates, latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dim_ray.config import Config, EvaluationConfig, Precision, fingerprint
from dim_ray.core.data.dataset import Dataset, Normalisation
from dim_ray.core.data.splits import Split
from dim_ray.core.students.latents import LatentMatching
from dim_ray.core.teachers.pool import StoredPool
from dim_ray.core.teachers.soft_labels import Labeller
from dim_ray.errors import ConfigError, UsageError, listed
from dim_ray.pipeline.stored_data import stored_data
from dim_ray.pipeline.teachers import pool_teachers, read_teacher
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.artifacts import ArtifactStore

__all__ = [
    "check_labels",
    "labeller_name",
    "labelling_teachers",
    "latent_matching",
    "load_labeller",
    "size_of_teachers",
    "stored_labeller",
    "stored_matching",
]


def check_labels(config: Config, dataset: Dataset) -> None:
    """Check that the generators of a search will have teachers, if students need them.

    Raises:
        ConfigError: They won't.
    """
    if config.evaluation.asks_teachers and not pool_teachers(config):
        wish, remedy = _wish(config.evaluation)
        raise ConfigError(
            f"{wish}, but no generator would be matched against stored teachers (matching.kind is "
            f"{config.matching.kind!r}). {remedy}"
        )


def labelling_teachers(work: Workspace, generator: str) -> tuple[str, ...]:
    """Return the fingerprints of the teachers that a generator's students and baselines need, if any.

    Raises:
        ConfigError: The generator was made without teachers, or the storage lacks them.
    """
    if not work.config.evaluation.asks_teachers:
        return ()
    teachers = tuple(sorted(work.artifacts.read_card("generators", generator)["teachers"]))
    wish, remedy = _wish(work.config.evaluation)
    if not teachers:
        raise ConfigError(f"{wish}, but the card of generator {generator} names no teachers. {remedy}")
    absent = [name for name in teachers if not work.artifacts.exists("teachers", name)]
    if absent:
        raise ConfigError(
            f"{wish}, but of the {len(teachers)} teachers of generator {generator} {work.artifacts.root} lacks "
            f"{listed(absent)}: copy their folders below teachers/ from the storage where it was distilled. {remedy}"
        )
    return teachers


def labeller_name(teachers: Sequence[str]) -> str | None:
    """Return the rows' name for these teachers together, in any order; None without teachers."""
    return fingerprint("labeller", sorted(teachers)) if teachers else None


def load_labeller(work: Workspace, teachers: Sequence[str], recipe: EvaluationConfig) -> Labeller | None:
    """Return the labeller of these teachers on the dataset's device; None without teachers."""
    if not teachers:
        return None
    read = [read_teacher(work.artifacts, name) for name in teachers]
    return Labeller(read, work.dataset, recipe.soft_label_temperature, given=recipe.normalisation)


def latent_matching(
    artifacts: ArtifactStore, card: Mapping[str, Any], dataset: Dataset, *, steps: int, precision: Precision
) -> LatentMatching:
    """Return what matches latents of a generator, given by its card, as it was distilled itself."""
    teachers = [read_teacher(artifacts, name) for name in card["teachers"]]
    seen = dataset.normalised(teachers[0].normalisation)
    return LatentMatching(
        StoredPool(teachers, seen),
        seen,
        augmentation=card["training"]["matching"]["augmentation"],
        steps=steps,
        precision=precision,
    )


def stored_labeller(card: Mapping[str, Any], uri: str, device: torch.device | str) -> Labeller:
    """Return the labeller of the teachers of the generator at a URI, for images that are normalised as its card says.

    Raises:
        UsageError: The generator has no teachers, or they aren't in its storage.
    """
    artifacts = _storage_with_teachers(card, uri, "candidates need", "leave candidates at 1")
    shape = card["dataset"]
    images = torch.empty(0, shape["num_channels"], shape["image_size"], shape["image_size"], dtype=torch.uint8)
    empty = Split(images=images.to(device), labels=torch.empty(0, dtype=torch.int64, device=device))
    data = Dataset(
        name=shape["name"],
        train=empty,
        validation=empty,
        test=empty,
        class_names=tuple(shape["class_names"]),
        normalisation=Normalisation(mean=tuple(shape["mean"]), std=tuple(shape["std"])),
        digest="",
        content_digest="",
    )
    return Labeller([read_teacher(artifacts, name) for name in card["teachers"]], data, temperature=1.0)


def stored_matching(card: Mapping[str, Any], uri: str, device: torch.device | str, *, steps: int) -> LatentMatching:
    """Return what matches latents of the generator at a URI to the real images that it was distilled from.

    Raises:
        UsageError: The generator has no teachers, or they or its data aren't where its storage says.
    """
    instead = "leave latent_steps at 0"
    artifacts = _storage_with_teachers(card, uri, "latent steps need", instead)
    dataset = stored_data(artifacts, card, data_root=None)
    if dataset is None:
        raise UsageError(
            f"latent steps need the images of {card['dataset']['name']} that {uri} was distilled from, and they aren't "
            f"where {artifacts.root} says, or have changed since. Restore them, or {instead}."
        )
    return latent_matching(artifacts, card, dataset.to(device), steps=steps, precision="auto")


def _storage_with_teachers(card: Mapping[str, Any], uri: str, needed_by: str, instead: str) -> ArtifactStore:
    artifacts = ArtifactStore(uri.rsplit("/", 2)[0])
    absent = [name for name in card["teachers"] if not artifacts.exists("teachers", name)]
    if absent or not card["teachers"]:
        lack = f"{artifacts.uri('teachers', absent[0])} isn't there" if absent else "it was distilled without any"
        raise UsageError(
            f"{needed_by} the teachers of {uri}, and {lack}. Load the generator from the storage where it was "
            f"distilled, or {instead}."
        )
    return artifacts


def size_of_teachers(work: Workspace, teachers: Sequence[str]) -> int:
    """Return the size of the teachers' files, with all snapshots, in bytes."""
    cards = (work.artifacts.read_card("teachers", name) for name in teachers)
    return sum(int(file["size_bytes"]) for card in cards for file in card["files"].values())


def _wish(evaluation: EvaluationConfig) -> tuple[str, str]:
    """Return what needs teachers, and what to do where there are none."""
    if evaluation.labels == "soft":
        wish, flag = "evaluation.labels is 'soft'", "--evaluation.labels hard"
    elif evaluation.latent_steps and "fixed" in evaluation.protocols:
        wish, flag = f"evaluation.latent_steps is {evaluation.latent_steps}", "--evaluation.latent_steps 0"
    else:
        wish, flag = f"evaluation.candidates is {evaluation.candidates}", "--evaluation.candidates 1"
    return wish, (
        "That needs the stored teachers that a generator was matched against. "
        f"Set {flag}, or distil against a stored pool (--matching.kind logits)."
    )
