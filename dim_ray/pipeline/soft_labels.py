"""The teachers that give soft labels: those that a generator was matched against, read by fingerprint."""

from __future__ import annotations

from collections.abc import Sequence

from dim_ray.config import Config, fingerprint
from dim_ray.core.data.dataset import Dataset
from dim_ray.core.teachers.soft_labels import Labeller
from dim_ray.errors import ConfigError
from dim_ray.pipeline.teachers import pool_teachers, read_teacher
from dim_ray.pipeline.workspace import Workspace

__all__ = ["check_labels", "labeller_name", "labelling_teachers", "load_labeller", "size_of_teachers"]

_REMEDY = (
    "Soft labels are what the stored teachers say that a generator was matched against. Set --evaluation.labels hard, "
    "or distil against a stored pool (--matching.kind logits)."
)


def check_labels(config: Config, dataset: Dataset) -> None:
    """Checks that the generators of a search will have teachers, where their students are to have soft labels.

    Raises:
        ConfigError: They won't.
    """
    if config.evaluation.labels == "soft" and not pool_teachers(config):
        raise ConfigError(
            f"evaluation.labels is 'soft', but no generator would be matched against stored teachers "
            f"(matching.kind is {config.matching.kind!r}). {_REMEDY}"
        )


def labelling_teachers(work: Workspace, generator: str) -> tuple[str, ...]:
    """Returns the fingerprints of the teachers that give a generator's students soft labels; none with hard labels.

    The baselines on real images get their labels from the same teachers.

    Raises:
        ConfigError: The generator was made without teachers, or the storage doesn't hold them.
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
            f"{work.artifacts.root} lacks {', '.join(absent)}: copy their folders below teachers/ from the storage "
            "where it was distilled, or set --evaluation.labels hard."
        )
    return teachers


def labeller_name(teachers: Sequence[str]) -> str | None:
    """Returns what rows call these teachers together: the same in any order, None for hard labels."""
    return fingerprint("labeller", sorted(teachers)) if teachers else None


def load_labeller(work: Workspace, teachers: Sequence[str], temperature: float) -> Labeller | None:
    """Returns the labeller of these teachers on the dataset's device, None for hard labels."""
    if not teachers:
        return None
    return Labeller([read_teacher(work, name) for name in teachers], work.dataset, temperature)


def size_of_teachers(work: Workspace, teachers: Sequence[str]) -> int:
    """Returns the size of the teachers' files in bytes, all of their snapshots."""
    cards = (work.artifacts.read_card("teachers", name) for name in teachers)
    return sum(int(file["size_bytes"]) for card in cards for file in card["files"].values())
