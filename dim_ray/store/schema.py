"""The two tables: their columns with meaning and unit, what a row must look like, and a row's id.

    row_id(generator, "digits", 10, "on_the_fly", "convnet3", seed)
    EVALUATIONS.field("accuracy").metadata  # {b"description": ..., b"unit": b"fraction in [0, 1]"}

A change of the columns raises SCHEMA_VERSION, which every file carries in its schema's metadata: a reader refuses a
file of a version above its own, and reads older ones. A new column says since which version it is there, as nullable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import pyarrow as pa

from dim_ray.config import PROTOCOLS, WEIGHTS, fingerprint
from dim_ray.errors import StorageError, nearest
from dim_ray.store.filesystem import check_name

__all__ = [
    "EVALUATIONS",
    "EVALUATION_TABLE",
    "SCHEMA_VERSION",
    "TABLES",
    "TRIALS",
    "TRIAL_TABLE",
    "Table",
    "check_row",
    "row_id",
    "since",
]

SCHEMA_VERSION = 2
STATES = ("completed", "diverged", "failed", "stopped")

_FRACTION = "fraction in [0, 1]"
_TIME = pa.timestamp("us", tz="UTC")
_MAX_SHOWN = 80
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
            _FRACTION,
        ),
        _column(
            "best_test_accuracy",
            pa.float64(),
            "Best over periodic tests on split, as the literature reports: inflated, never the headline.",
            _FRACTION,
            nullable=True,
        ),
        _column(
            "validation_accuracy",
            pa.float64(),
            "On the validation split, after the last epoch: what selection may use.",
            _FRACTION,
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
            _FRACTION,
            nullable=True,
        ),
        _column("objective_name", pa.string(), "What the objective is.", nullable=True),
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
TRIAL_TABLE = Table(name="trials", schema=TRIALS, partitions=("study",), identity=("study", "number"))
TABLES = (EVALUATION_TABLE, TRIAL_TABLE)


def row_id(*parts: Any) -> str:
    """Returns the id of a row: the same, in every process, for the same configurations and plain values."""
    return fingerprint(*parts)


def since(field: pa.Field) -> int:
    """Returns the schema version with which a column came. Rows of an older version have null there."""
    return int(_meaning(field, _SINCE) or 1)


def check_row(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row with every column of the table, once all of its values are known to be right.

    `id`, `schema_version` and `created_at` may be left out and are then filled in; every other column has to be
    there, None where it has no value.

    Raises:
        StorageError: A column is missing or unknown, or a value has the wrong type or is out of range.
    """
    names = table.schema.names
    for column in row:
        if column not in names:
            raise StorageError(f"the row for {table.name} has the unknown column {column!r}; {nearest(column, names)}")
    complete = {"id": None, "schema_version": SCHEMA_VERSION, "created_at": datetime.now(UTC), **row}
    missing = [name for name in names if name not in complete]
    if missing:
        raise StorageError(
            f"the row for {table.name} lacks {', '.join(missing)}; give every column, None where it has no value."
        )
    values = {
        field.name: _checked(f"{table.name}.{field.name}", field, complete[field.name])
        for field in table.schema
        if field.name != "id"
    }
    given = complete["id"]
    own = row_id(table.name, *(values[name] for name in table.identity)) if given is None else given
    complete = values | {"id": check_name(f"{table.name}.id", own)}
    if complete["schema_version"] != SCHEMA_VERSION:
        raise StorageError(
            f"{table.name}.schema_version is {complete['schema_version']!r}; this version writes {SCHEMA_VERSION}."
        )
    for name in table.partitions:
        if isinstance(complete[name], str):
            check_name(f"{table.name}.{name}", complete[name])
        elif complete[name] < 1:
            raise StorageError(f"{table.name}.{name} is {complete[name]!r}; allowed: 1 or more.")
    return complete


def _checked(where: str, field: pa.Field, value: Any) -> Any:
    """Returns a value as the plain Python value that is stored."""
    if value is None:
        if not field.nullable:
            raise StorageError(f"{where} is None; this column needs a value ({_meaning(field, 'description')})")
        return None
    fits, wanted = next((fits, wanted) for is_kind, fits, wanted in _KINDS if is_kind(field.type))
    if not fits(value):
        raise StorageError(f"{where} is {_shown(value)} ({type(value).__name__}); allowed: {wanted}.")
    try:
        plain = pa.scalar(value, field.type).as_py()
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise StorageError(f"{where} is {_shown(value)}, which isn't a {field.type}: {error}") from error
    if _meaning(field, "unit") == _FRACTION and not 0 <= plain <= 1:
        raise StorageError(f"{where} is {value!r}; allowed: a {_FRACTION} (not a percentage).")
    allowed = _meaning(field, "allowed")
    if allowed and plain not in allowed.split(", "):
        raise StorageError(f"{where} is {value!r}, which is unknown; {nearest(plain, allowed.split(', '))}")
    return plain


# pyarrow itself would take 1.5 for the integer 1, True for 1.0 and a local time for UTC
_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], bool], str], ...] = (
    (pa.types.is_string, lambda value: isinstance(value, str), "a string"),
    (pa.types.is_integer, lambda value: isinstance(value, Integral) and not isinstance(value, bool), "a whole number"),
    (pa.types.is_floating, lambda value: isinstance(value, Real) and not isinstance(value, bool), "a number"),
    (
        pa.types.is_timestamp,
        lambda value: isinstance(value, datetime) and value.tzinfo is not None,
        "a datetime with a time zone",
    ),
)


def _meaning(field: pa.Field, key: str) -> str:
    text: bytes = (field.metadata or {}).get(key.encode(), b"")
    return text.decode()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
