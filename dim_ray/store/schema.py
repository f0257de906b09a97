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
    _column("id", pa.string(), "Hash of what was measured; also the file's name.", "hex"),
    _column("schema_version", pa.int32(), "Version of the table's columns.", "number"),
    _column("created_at", _TIME, "When the row was written.", "UTC"),
]
_ORIGIN = [
    _column("host", pa.string(), "Machine that computed it.", nullable=True),
    _column("code_version", pa.string(), "Version of dim_ray."),
]

EVALUATIONS: pa.Schema = pa.schema(
    [
        *_ROW,
        _column("dataset", pa.string(), "Dataset; in the path."),
        _column(
            "ipc",
            pa.int32(),
            "Images per class (real_full: the mean); in the path.",
            "images",
        ),
        _column("study", pa.string(), "Study that requested it.", nullable=True),
        _column("generator", pa.string(), "Generator's fingerprint; null for real images.", "hex", nullable=True),
        _column(
            "weights",
            pa.string(),
            "Generator's averaged or raw weights; null for real images.",
            nullable=True,
            allowed=WEIGHTS,
        ),
        _column("data_fingerprint", pa.string(), "Fingerprint of the data and their splits.", "hex"),
        _column("protocol", pa.string(), "How the student got its images.", allowed=PROTOCOLS),
        _column("architecture", pa.string(), "Student's architecture."),
        _column("seed", pa.int64(), "Student's seed.", "number"),
        _column("split", pa.string(), "Split that accuracy was measured on."),
        _column("selection", pa.string(), "Split that chose hyperparameters; test if it chose the epoch."),
        _column(
            "preset",
            pa.string(),
            "Without quirks, with the reference's, or between.",
            allowed=("corrected", "reference", "custom"),
        ),
        _column("quirks", pa.string(), "The reference's quirks in force, joined by +, or none."),
        _column("labels", pa.string(), "Labels used in training.", allowed=("hard", "soft")),
        _column(
            "labeller",
            pa.string(),
            "Fingerprint of the teachers that gave soft labels.",
            "hex",
            nullable=True,
        ),
        _column(
            "accuracy",
            pa.float64(),
            "On split after the last epoch; under best_of_tests, best_test_accuracy.",
            FRACTION,
        ),
        _column(
            "best_test_accuracy",
            pa.float64(),
            "Best of several tests on split: inflated, never the headline.",
            FRACTION,
            nullable=True,
        ),
        _column(
            "validation_accuracy",
            pa.float64(),
            "On the validation split after the last epoch, for selection.",
            FRACTION,
            nullable=True,
        ),
        _column("images_drawn", pa.int64(), "Images shown to the student, repeats included.", "images"),
        _column("distinct_images", pa.int64(), "Different images among them, before augmentation.", "images"),
        _column("optimiser_steps", pa.int64(), "Student's optimiser steps.", "steps"),
        _column("batch_size", pa.int64(), "Images in the largest step; 0 without steps.", "images"),
        _column("epochs", pa.int64(), "Epochs of IPC x classes images, unless protocol or quirks differ.", "epochs"),
        _column(
            "stored_bytes",
            pa.int64(),
            "Generator's file, or images as uint8; soft labels add 4 bytes per image and class for fixed sets, "
            "otherwise the teachers' files.",
            "bytes",
        ),
        _column("optimizer", pa.string(), "Student's optimizer."),
        _column("learning_rate", pa.float64(), "Initial learning rate.", "rate"),
        _column("schedule", pa.string(), "Learning rate schedule."),
        _column("augmentation", pa.string(), "Student's DSA operations."),
        _column("recipe_json", pa.string(), "Student's section evaluation, quirks included.", "JSON"),
        _column("budget_fingerprint", pa.string(), "Fingerprint of the student's budget and recipe.", "hex"),
        _column("final_loss", pa.float64(), "Training loss of the last step.", "nats", nullable=True),
        _column(
            "wall_seconds",
            pa.float64(),
            "Training and testing time; an equal share of students trained together.",
            "seconds",
        ),
        _column("device", pa.string(), "Training device."),
        _column("precision", pa.string(), "Number format of training steps.", nullable=True),
        _column("num_threads", pa.int64(), "PyTorch's CPU threads.", "threads", nullable=True),
        *_ORIGIN,
        _column("torch_version", pa.string(), "Version of PyTorch."),
    ]
)
"""One row an evaluation: one student trained and tested."""

VALIDATIONS: pa.Schema = pa.schema(
    [
        *_ROW,
        *map(EVALUATIONS.field, ("dataset", "ipc", "study")),
        _column("generator", pa.string(), "Generator's fingerprint.", "hex"),
        _column("weights", pa.string(), "Generator's averaged or raw weights.", allowed=WEIGHTS),
        *map(EVALUATIONS.field, ("data_fingerprint", "architecture", "seed")),
        _column(
            "accuracy",
            pa.float64(),
            "On the validation split after the last epoch; 0 if diverged.",
            FRACTION,
        ),
        _column("error", pa.string(), "How the student diverged.", nullable=True),
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
        _column("study", pa.string(), "Study; in the path."),
        _column("number", pa.int64(), "Number in the study, from 0.", "number"),
        _column("state", pa.string(), "How it ended; stopped means by the scheduler.", allowed=STATES),
        _column("pool_size", pa.int64(), "Teachers in the pool.", "teachers"),
        _column("capacity", pa.int64(), "Generator's channels.", "channels"),
        _column("matching_weight", pa.float64(), "Weight of the matching loss.", "weight"),
        _column("adversarial_weight", pa.float64(), "Weight of the adversarial and class losses.", "weight"),
        _column("params_json", pa.string(), "Parameters that the search chose, by field.", "JSON"),
        _column(
            "objective",
            pa.float64(),
            "Validation accuracy, to be maximised.",
            FRACTION,
            nullable=True,
        ),
        _column("objective_name", pa.string(), "What the objective measures.", nullable=True),
        _column(
            "num_seeds",
            pa.int64(),
            "Seeds averaged in the objective.",
            "seeds",
            nullable=True,
            since=3,
        ),
        _column(
            "objective_std",
            pa.float64(),
            "Standard deviation over these seeds.",
            FRACTION,
            nullable=True,
            since=3,
        ),
        _column("epoch", pa.int64(), "Last reported matching epoch.", "epochs", nullable=True),
        _column("device_seconds", pa.float64(), "Time x devices held.", "seconds", nullable=True),
        _column(
            "saved_device_seconds",
            pa.float64(),
            "Additional cost without reuse: teachers, prior, and all of reused_trial.",
            "seconds",
            nullable=True,
            since=2,
        ),
        _column(
            "reused_trial",
            pa.int64(),
            "Trial of this study whose result it took over.",
            "number",
            nullable=True,
            since=2,
        ),
        _column(
            "generator_bytes",
            pa.int64(),
            "File size of the validated weights.",
            "bytes",
            nullable=True,
            since=3,
        ),
        _column(
            "alone_device_seconds",
            pa.float64(),
            "Cost of the generator from nothing: teachers, prior and distillation.",
            "seconds",
            nullable=True,
            since=3,
        ),
        _column("wall_seconds", pa.float64(), "Time from start to end.", "seconds", nullable=True),
        _column("generator", pa.string(), "Generator's fingerprint.", "hex", nullable=True),
        _column("config_fingerprint", pa.string(), "Fingerprint of the trial's configuration.", "hex"),
        _column("config_json", pa.string(), "Trial's resolved configuration.", "JSON"),
        _column("error", pa.string(), "What went wrong.", nullable=True),
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
