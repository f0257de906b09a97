"""The tables' columns, with their meaning and unit.

    EVALUATIONS.field("accuracy").metadata  # {b"description": ..., b"unit": b"fraction in [0, 1]"}

Changing the columns raises SCHEMA_VERSION, which every file carries in its metadata. Readers accept older files and
refuse newer ones. A new column is nullable and names the version that it came with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import pyarrow as pa

from dim_ray.config import PROTOCOLS, WEIGHTS

__all__ = [
    "DRAWERS",
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

SCHEMA_VERSION = 5
STATES = ("completed", "diverged", "failed", "stopped")
DRAWERS = ("start", "sampler", "warm start", "retry")

FRACTION = "fraction in [0, 1]"

_TEXT, _INT, _REAL, _TIME = pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")


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
    metadata |= {"since": str(since)} if since > 1 else {}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


_optional = partial(_column, nullable=True)

_ROW = [
    _column("id", _TEXT, "Hash of what was measured; also the file's name.", "hex"),
    _column("schema_version", pa.int32(), "Version of the table's columns.", "number"),
    _column("created_at", _TIME, "When the row was written.", "UTC"),
]
_ORIGIN = [
    _optional("host", _TEXT, "Machine that computed it."),
    _column("code_version", _TEXT, "Version of dim_ray."),
]

EVALUATIONS: pa.Schema = pa.schema(
    [
        *_ROW,
        _column("dataset", _TEXT, "Dataset; in the path."),
        _column("ipc", pa.int32(), "Images per class (real_full: the mean); in the path.", "images"),
        _optional("study", _TEXT, "Study that requested it."),
        _optional("generator", _TEXT, "Generator's fingerprint; null for real images.", "hex"),
        _optional("weights", _TEXT, "Generator's averaged or raw weights; null for real images.", allowed=WEIGHTS),
        _column("data_fingerprint", _TEXT, "Fingerprint of the data and their splits.", "hex"),
        _column("protocol", _TEXT, "How the student got its images.", allowed=PROTOCOLS),
        _column("architecture", _TEXT, "Student's architecture."),
        _column("seed", _INT, "Student's seed.", "number"),
        _column("split", _TEXT, "Split that accuracy was measured on."),
        _column("selection", _TEXT, "Split that chose hyperparameters; test if it chose the epoch."),
        _column(
            "preset",
            _TEXT,
            "Without quirks, with the reference's, or between.",
            allowed=("corrected", "reference", "custom"),
        ),
        _column("quirks", _TEXT, "The reference's quirks in force, joined by +, or none."),
        _column("labels", _TEXT, "Labels used in training.", allowed=("hard", "soft")),
        _optional(
            "labeller", _TEXT, "Fingerprint of the teachers that helped: soft labels, candidates, latents.", "hex"
        ),
        _column("accuracy", _REAL, "On split after the last epoch; under best_of_tests, best_test_accuracy.", FRACTION),
        _optional(
            "best_test_accuracy", _REAL, "Best of several tests on split: inflated, never the headline.", FRACTION
        ),
        _optional(
            "validation_accuracy", _REAL, "On the validation split after the last epoch, for selection.", FRACTION
        ),
        _column("images_drawn", _INT, "Images shown to the student, repeats included.", "images"),
        _optional("candidates", _INT, "Images generated for each one drawn, which teachers chose.", "images", since=4),
        _optional("latent_steps", _INT, "Steps that moved the latents of a fixed set.", "steps", since=5),
        _column("distinct_images", _INT, "Different images among them, before augmentation.", "images"),
        _column("optimiser_steps", _INT, "Student's optimiser steps.", "steps"),
        _column("batch_size", _INT, "Images in the largest step; 0 without steps.", "images"),
        _column("epochs", _INT, "Epochs of IPC x classes images, unless protocol or quirks differ.", "epochs"),
        _column(
            "stored_bytes",
            _INT,
            "Generator's file, or images as uint8. Soft labels add 4 bytes per image and class to fixed sets; on the "
            "fly, the teachers of soft labels and candidates count.",
            "bytes",
        ),
        _column("optimizer", _TEXT, "Student's optimizer."),
        _column("learning_rate", _REAL, "Initial learning rate.", "rate"),
        _column("schedule", _TEXT, "Learning rate schedule."),
        _column("augmentation", _TEXT, "Student's DSA operations."),
        _column("recipe_json", _TEXT, "Student's section evaluation, quirks included.", "JSON"),
        _column("budget_fingerprint", _TEXT, "Fingerprint of the student's budget and recipe.", "hex"),
        _optional("final_loss", _REAL, "Training loss of the last step.", "nats"),
        _column(
            "wall_seconds", _REAL, "Training and testing time; an equal share of students trained together.", "seconds"
        ),
        _column("device", _TEXT, "Training device."),
        _optional("precision", _TEXT, "Number format of training steps: float32, tf32 or bfloat16."),
        _optional("num_threads", _INT, "PyTorch's CPU threads.", "threads"),
        *_ORIGIN,
        _column("torch_version", _TEXT, "Version of PyTorch."),
    ]
)
"""One row per student, trained and tested."""

VALIDATIONS: pa.Schema = pa.schema(
    [
        *_ROW,
        *map(EVALUATIONS.field, ("dataset", "ipc", "study")),
        _column("generator", _TEXT, "Generator's fingerprint.", "hex"),
        _column("weights", _TEXT, "Generator's averaged or raw weights.", allowed=WEIGHTS),
        *map(EVALUATIONS.field, ("data_fingerprint", "architecture", "seed")),
        _column("accuracy", _REAL, "On the validation split after the last epoch; 0 if diverged.", FRACTION),
        _optional("error", _TEXT, "How the student diverged."),
        *map(
            EVALUATIONS.field,
            ("recipe_json", "budget_fingerprint", "wall_seconds", "device", "precision", "num_threads"),
        ),
        *_ORIGIN,
        EVALUATIONS.field("torch_version"),
    ]
)
"""One row per student that measured a contender on the validation split."""

TRIALS: pa.Schema = pa.schema(
    [
        *_ROW,
        _column("study", _TEXT, "Study; in the path."),
        _column("number", _INT, "Number in the study, from 0.", "number"),
        _column("state", _TEXT, "How it ended; stopped means by the scheduler.", allowed=STATES),
        _column("pool_size", _INT, "Teachers in the pool.", "teachers"),
        _column("capacity", _INT, "Generator's channels.", "channels"),
        _column("matching_weight", _REAL, "Weight of the matching loss, in matching.weight_unit.", "weight"),
        _column("adversarial_weight", _REAL, "Weight of the adversarial and class losses.", "weight"),
        _column("params_json", _TEXT, "Parameters that the search chose, by field.", "JSON"),
        _optional(
            "drawn_by",
            _TEXT,
            "What drew it: the start, which spreads over the space, the sampler, or an earlier trial.",
            allowed=DRAWERS,
            since=4,
        ),
        _optional("objective", _REAL, "Validation accuracy, to be maximised.", FRACTION),
        _optional("objective_name", _TEXT, "What the objective measures."),
        _optional("num_seeds", _INT, "Seeds averaged in the objective.", "seeds", since=3),
        _optional("objective_std", _REAL, "Standard deviation over these seeds.", FRACTION, since=3),
        _optional("epoch", _INT, "Last reported matching epoch.", "epochs"),
        _optional("device_seconds", _REAL, "Time x devices held.", "seconds"),
        _optional(
            "saved_device_seconds",
            _REAL,
            "Additional cost without reuse: teachers, prior, and all of reused_trial.",
            "seconds",
            since=2,
        ),
        _optional("reused_trial", _INT, "Trial of this study whose result it took over.", "number", since=2),
        _optional("generator_bytes", _INT, "File size of the validated weights.", "bytes", since=3),
        _optional(
            "alone_device_seconds",
            _REAL,
            "Cost of the generator from nothing: teachers, prior and distillation.",
            "seconds",
            since=3,
        ),
        _optional("wall_seconds", _REAL, "Time from start to end.", "seconds"),
        _optional("generator", _TEXT, "Generator's fingerprint.", "hex"),
        _column("config_fingerprint", _TEXT, "Fingerprint of the trial's configuration.", "hex"),
        _column("config_json", _TEXT, "Trial's resolved configuration.", "JSON"),
        _optional("error", _TEXT, "What went wrong."),
        _optional("started_at", _TIME, "When the trial began.", "UTC"),
        _optional("ended_at", _TIME, "When the trial ended.", "UTC"),
        *_ORIGIN,
    ]
)
"""One row per configuration that a study tried."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the store."""

    name: str
    """Its folder below the root."""
    schema: pa.Schema
    """Every column, partitions included."""
    partitions: tuple[str, ...]
    """Columns in the path instead of the file, outermost first."""
    id_columns: tuple[str, ...]
    """Columns that say what was measured; a row's id is their fingerprint."""

    @cached_property
    def file_schema(self) -> pa.Schema:
        """Columns inside the files: no partitions, and all nullable, so that later versions may relax them."""
        inside = [pa.field(f.name, f.type) for f in self.schema if f.name not in self.partitions]
        return pa.schema(inside, metadata={"schema_version": str(SCHEMA_VERSION), "table": self.name})


_STUDENT = (
    "generator", "weights", "data_fingerprint", "dataset", "ipc", "protocol", "architecture", "seed", "split", "preset",
    "quirks", "labels", "labeller", "budget_fingerprint", "code_version",
)  # fmt: skip
EVALUATION_TABLE = Table(
    name="evaluations",
    schema=EVALUATIONS,
    partitions=("dataset", "ipc"),
    id_columns=_STUDENT,
)
VALIDATION_TABLE = Table(
    name="validations",
    schema=VALIDATIONS,
    partitions=EVALUATION_TABLE.partitions,
    id_columns=tuple(name for name in _STUDENT if name in VALIDATIONS.names),
)
TRIAL_TABLE = Table(name="trials", schema=TRIALS, partitions=("study",), id_columns=("study", "number"))
TABLES = (EVALUATION_TABLE, VALIDATION_TABLE, TRIAL_TABLE)


def meaning(field: pa.Field, key: str) -> str:
    """Return an entry of a column's metadata (description, unit, allowed or since), or ""."""
    text: bytes = (field.metadata or {}).get(key.encode(), b"")
    return text.decode()


def since(field: pa.Field) -> int:
    """Return the schema version that a column came with; in older rows it's null."""
    return int(meaning(field, "since") or 1)
