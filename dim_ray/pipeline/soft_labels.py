"""Soft labels by the teachers that a generator was matched against."""

from __future__ import annotations

from collections.abc import Sequence

from dim_ray.config import Config, EvaluationConfig, fingerprint
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.teachers.soft_labels import Labeller
from dim_ray.errors import ConfigError, listed
from dim_ray.pipeline.teachers import pool_teachers, read_teacher
from dim_ray.pipeline.workspace import Workspace

__all__ = ["check_labels", "labeller_name", "labelling_teachers", "load_labeller", "size_of_teachers"]

_REMEDY = (
    "Soft labels come from the stored teachers that a generator was matched against. Set --evaluation.labels hard, or "
    "distil against a stored pool (--matching.kind logits)."
)


def check_labels(config: Config, dataset: Dataset) -> None:
    """Check that the generators of a search will have teachers, if students get soft labels.

    Raises:
        ConfigError: They won't.
    """
    if config.evaluation.labels == "soft" and not pool_teachers(config):
        raise ConfigError(
            f"evaluation.labels is 'soft', but no generator would be matched against stored teachers "
            f"(matching.kind is {config.matching.kind!r}). {_REMEDY}"
        )


def labelling_teachers(work: Workspace, generator: str) -> tuple[str, ...]:
    """Return the fingerprints of the teachers that label a generator's students and baselines; none with hard labels.

    Raises:
        ConfigError: The generator was made without teachers, or the storage lacks them.
    """
    if work.config.evaluation.labels == "hard":
        return ()
    teachers = tuple(sorted(work.artifacts.read_card("generators", generator)["teachers"]))
    if not teachers:
        raise ConfigError(
            f"evaluation.labels is 'soft', but the card of generator {generator} names no teachers. {_REMEDY}"
        )
    absent = [name for name in teachers if not work.artifacts.exists("teachers", name)]
    if absent:
        raise ConfigError(
            f"evaluation.labels is 'soft', but of the {len(teachers)} teachers of generator {generator} "
            f"{work.artifacts.root} lacks {listed(absent)}: copy their folders below teachers/ from the storage "
            "where it was distilled, or set --evaluation.labels hard."
        )
    return teachers


def labeller_name(teachers: Sequence[str]) -> str | None:
    """Return the rows' name for these teachers together, in any order; None for hard labels."""
    return fingerprint("labeller", sorted(teachers)) if teachers else None


def load_labeller(work: Workspace, teachers: Sequence[str], recipe: EvaluationConfig) -> Labeller | None:
    """Return the labeller of these teachers on the dataset's device; None for hard labels."""
    if not teachers:
        return None
    read = [read_teacher(work, name) for name in teachers]
    return Labeller(read, work.dataset, recipe.soft_label_temperature, given=recipe.normalisation)


def size_of_teachers(work: Workspace, teachers: Sequence[str]) -> int:
    """Return the size of the teachers' files, with all snapshots, in bytes."""
    cards = (work.artifacts.read_card("teachers", name) for name in teachers)
    return sum(int(file["size_bytes"]) for card in cards for file in card["files"].values())
