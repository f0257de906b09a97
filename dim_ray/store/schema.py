"""The tables: their columns with meaning and unit.

    EVALUATIONS.field("accuracy").metadata  # {b"description": ..., b"unit": b"fraction in [0, 1]"}

A change of the columns raises SCHEMA_VERSION, which every file carries in its schema's metadata: a reader refuses a
file of a version above its own, and reads older ones. A new column says since which version it is there, as nullable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from dim_ray.config import PROTOCOLS, WEIGHTS

__all__ = [
    "EVALUATIONS",
    "EVALUATION_TABLE",
    "FRACTION",
    "SCHEMA_VERSION",
    "TABLES",
    "TRIALS",
    "TRIAL_TABLE",
    "VALIDATIONS",
    "VALIDATION_TABLE",
    "Table",
    "meaning",
    "since",
]

SCHEMA_VERSION = 3
STATES = ("completed", "diverged", "failed", "stopped")

FRACTION = "fraction in [0, 1]"
"""A unit."""

_TIME = pa.timestamp("us", tz="UTC")
_SINCE = "since"  # the schema version with which a column came; it's null in older rows


def _column(
    name: str,
    kind: pa.DataType,
    description: str,
    unit: str = "-",
    *,
    nullable: bool = False,
    allowed: Sequence[str] = (),
    since: int = 1,
) -> pa.Field:
    metadata = {"description": description, "unit": unit} | ({"allowed": ", ".join(allowed)} if allowed else {})
    metadata |= {_SINCE: str(since)} if since > 1 else {}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


_ROW = [
    _column("id", pa.string(), "Identifies what was measured; the file's name. A retry writes the same id.", "hex"),
    _column("schema_version", pa.int32(), "Version of this table's columns.", "number"),
    _column("created_at", _TIME, "When the row was written.", "UTC"),
]
_ORIGIN = [
    _column("host", pa.string(), "Name of the machine that computed it.", nullable=True),
    _column("code_version", pa.string(), "Version of dim_ray that computed it."),
]

EVALUATIONS: pa.Schema = pa.schema(
    [
        *_ROW,
        _column("dataset", pa.string(), "Name of the data set. Partition: part of the path, not in the file."),
        _column(
            "ipc",
            pa.int32(),
            "Images per class; of real_full the mean of its classes. Partition: part of the path, not in the file.",
            "images",
        ),
        _column("study", pa.string(), "Study that asked for it; null outside of a study.", nullable=True),
        _column("generator", pa.string(), "Fingerprint of the generator; null for real images.", "hex", nullable=True),
        _column(
            "weights",
            pa.string(),
            "Which of the generator's weights: their moving average, or raw; null for real images.",
            nullable=True,
            allowed=WEIGHTS,
        ),
        _column("data_fingerprint", pa.string(), "Identifies the data and their splits.", "hex"),
        _column("protocol", pa.string(), "How the student got its images.", allowed=PROTOCOLS),
        _column("architecture", pa.string(), "Architecture of the student."),
        _column("seed", pa.int64(), "Seed of the student.", "number"),
        _column("split", pa.string(), "Split that accuracy was measured on."),
        _column("selection", pa.string(), "Split that chose hyperparameters; test: it chose the epoch, too."),
        _column(
            "preset",
            pa.string(),
            "corrected: no quirks; reference: the reference implementation's recipe and quirks; custom: between.",
            allowed=("corrected", "reference", "custom"),
        ),
        _column("quirks", pa.string(), "The reference implementation's quirks in force, joined by +, or none."),
        _column("labels", pa.string(), "Labels that the student was trained with.", allowed=("hard", "soft")),
        _column(
            "labeller",
            pa.string(),
            "Identifies the teachers that gave soft labels; null with hard labels.",
            "hex",
            nullable=True,
        ),
        _column(
            "accuracy",
            pa.float64(),
            "On split, after the last epoch: the headline. Under the quirk best_of_tests, best_test_accuracy.",
            FRACTION,
        ),
        _column(
            "best_test_accuracy",
            pa.float64(),
            "Best over periodic tests on split, as the literature reports: inflated, never the headline.",
            FRACTION,
            nullable=True,
        ),
        _column(
            "validation_accuracy",
            pa.float64(),
            "On the validation split, after the last epoch: what selection may use.",
            FRACTION,
            nullable=True,
        ),
        _column("images_drawn", pa.int64(), "Images that the student was shown, repeats counted.", "images"),
        _column("distinct_images", pa.int64(), "Different images among them, before augmentation.", "images"),
        _column("optimiser_steps", pa.int64(), "Steps of the student's optimiser.", "steps"),
        _column("batch_size", pa.int64(), "Images of the largest step; 0 where there was none.", "images"),
        _column(
            "epochs", pa.int64(), "Epochs of IPC x classes images, unless protocol or quirks say otherwise.", "epochs"
        ),
        _column(
            "stored_bytes",
            pa.int64(),
            "Size of what made the images: the generator's file, or the images as uint8. Soft labels add their own, 4 "
            "bytes a class, where the set is fixed, and else the teachers' files.",
            "bytes",
        ),
        _column("optimizer", pa.string(), "Of the student."),
        _column("learning_rate", pa.float64(), "Of the student's optimiser, at the start.", "rate"),
        _column("schedule", pa.string(), "How the learning rate went on."),
        _column("augmentation", pa.string(), "DSA operations on the student's images."),
        _column("recipe_json", pa.string(), "The section evaluation of the student, quirks in force included.", "JSON"),
        _column("budget_fingerprint", pa.string(), "Identifies budget and recipe of the student.", "hex"),
        _column("final_loss", pa.float64(), "Training loss of the last step; null: no step.", "nats", nullable=True),
        _column(
            "wall_seconds",
            pa.float64(),
            "Time of training and testing; of students trained at once, an equal share.",
            "seconds",
        ),
        _column("device", pa.string(), "Device that it was trained on."),
        _column("precision", pa.string(), "Number format of the student's training steps.", nullable=True),
        _column("num_threads", pa.int64(), "CPU threads that PyTorch used.", "threads", nullable=True),
        *_ORIGIN,
        _column("torch_version", pa.string(), "Version of PyTorch."),
    ]
)
"""One row an evaluation: one student trained and tested."""

VALIDATIONS: pa.Schema = pa.schema(
    [
        *_ROW,
        *map(EVALUATIONS.field, ("dataset", "ipc", "study")),
        _column("generator", pa.string(), "Fingerprint of the generator.", "hex"),
        _column(
            "weights", pa.string(), "Which of the generator's weights: their moving average, or raw.", allowed=WEIGHTS
        ),
        *map(EVALUATIONS.field, ("data_fingerprint", "architecture", "seed")),
        _column(
            "accuracy",
            pa.float64(),
            "On the validation split, after the last epoch; 0 where the student diverged.",
            FRACTION,
        ),
        _column("error", pa.string(), "How the student diverged; null where it didn't.", nullable=True),
        *map(
            EVALUATIONS.field,
            ("recipe_json", "budget_fingerprint", "wall_seconds", "device", "precision", "num_threads"),
        ),
        *_ORIGIN,
        EVALUATIONS.field("torch_version"),
    ]
)
"""One row a validation: one student, trained on the fly, that measured a contender on the validation split."""

TRIALS: pa.Schema = pa.schema(
    [
        *_ROW,
        _column("study", pa.string(), "Name of the study. Partition: part of the path, not in the file."),
        _column("number", pa.int64(), "The trial's number in its study, from 0.", "number"),
        _column("state", pa.string(), "How it ended; stopped: by the scheduler.", allowed=STATES),
        _column("pool_size", pa.int64(), "Teachers in the pool.", "teachers"),
        _column("capacity", pa.int64(), "Channels of the generator's layers.", "channels"),
        _column("matching_weight", pa.float64(), "Weight of the matching loss.", "weight"),
        _column("adversarial_weight", pa.float64(), "Weight of the adversarial and class losses.", "weight"),
        _column("params_json", pa.string(), "All parameters that the search chose.", "JSON"),
        _column(
            "objective",
            pa.float64(),
            "Validation accuracy that the search maximises; null if none was measured.",
            FRACTION,
            nullable=True,
        ),
        _column("objective_name", pa.string(), "What the objective is.", nullable=True),
        _column(
            "num_seeds",
            pa.int64(),
            "Seeds of the students whose mean the objective is, one for each IPC; null if none was measured.",
            "seeds",
            nullable=True,
            since=3,
        ),
        _column(
            "objective_std",
            pa.float64(),
            "Standard deviation over these students; null where there is one alone.",
            FRACTION,
            nullable=True,
            since=3,
        ),
        _column("epoch", pa.int64(), "Last matching epoch that was reported.", "epochs", nullable=True),
        _column("device_seconds", pa.float64(), "Time x devices that the trial held.", "seconds", nullable=True),
        _column(
            "saved_device_seconds",
            pa.float64(),
            "What the trial alone would have taken besides: its teachers and its prior, and all of reused_trial.",
            "seconds",
            nullable=True,
            since=2,
        ),
        _column(
            "reused_trial",
            pa.int64(),
            "Number of the same trial of this study, whose result it took over; null: it ran itself.",
            "number",
            nullable=True,
            since=2,
        ),
        _column(
            "generator_bytes",
            pa.int64(),
            "Size of the generator's file, of the weights that were validated; null if there is none.",
            "bytes",
            nullable=True,
            since=3,
        ),
        _column(
            "alone_device_seconds",
            pa.float64(),
            "What the generator takes from nothing, whoever made it: its teachers, its prior and its distillation.",
            "seconds",
            nullable=True,
            since=3,
        ),
        _column("wall_seconds", pa.float64(), "Time from start to end.", "seconds", nullable=True),
        _column("generator", pa.string(), "Fingerprint of the generator; null if none.", "hex", nullable=True),
        _column("config_fingerprint", pa.string(), "Identifies the trial's configuration.", "hex"),
        _column("config_json", pa.string(), "The trial's resolved configuration.", "JSON"),
        _column("error", pa.string(), "What went wrong; null if nothing did.", nullable=True),
        _column("started_at", _TIME, "When the trial began.", "UTC", nullable=True),
        _column("ended_at", _TIME, "When the trial ended.", "UTC", nullable=True),
        *_ORIGIN,
    ]
)
"""One row a trial."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the store."""

    name: str
    """Its folder below the root."""
    schema: pa.Schema
    """Every column, partitions included."""
    partitions: tuple[str, ...]
    """Columns that are in the path and not in the file, outermost first."""
    identity: tuple[str, ...]
    """Columns that say what was measured: the id of a row that comes without one is made of them."""

    @cached_property
    def file_schema(self) -> pa.Schema:
        """What is inside of a file: no partitions, all columns nullable so that later versions may relax them."""
        inside = [pa.field(f.name, f.type) for f in self.schema if f.name not in self.partitions]
        return pa.schema(inside, metadata={"schema_version": str(SCHEMA_VERSION), "table": self.name})


EVALUATION_TABLE = Table(
    name="evaluations",
    schema=EVALUATIONS,
    partitions=("dataset", "ipc"),
    identity=(
        "generator",
        "weights",
        "data_fingerprint",
        "dataset",
        "ipc",
        "protocol",
        "architecture",
        "seed",
        "split",
        "preset",
        "quirks",
        "labels",
        "labeller",
        "budget_fingerprint",
        "code_version",
    ),
)
VALIDATION_TABLE = Table(
    name="validations",
    schema=VALIDATIONS,
    partitions=EVALUATION_TABLE.partitions,
    identity=tuple(name for name in EVALUATION_TABLE.identity if name in VALIDATIONS.names),
)
TRIAL_TABLE = Table(name="trials", schema=TRIALS, partitions=("study",), identity=("study", "number"))
TABLES = (EVALUATION_TABLE, VALIDATION_TABLE, TRIAL_TABLE)


def meaning(field: pa.Field, key: str) -> str:
    """Returns what a column's metadata say: its description, unit, allowed values or first version; "" for nothing."""
    text: bytes = (field.metadata or {}).get(key.encode(), b"")
    return text.decode()


def since(field: pa.Field) -> int:
    """Returns the schema version with which a column came. Rows of an older version have null there."""
    return int(meaning(field, _SINCE) or 1)
