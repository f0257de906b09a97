"""Which columns of a Parquet file are the image and its label, and what the classes are called.

columns = find_columns(schema, "train.parquet", needs_label=True)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dim_ray.core.data.tree import remark
from dim_ray.errors import DataError, listed

__all__ = ["Columns", "find_columns", "is_text", "value_type"]

_IMAGE_NAMES = ("image", "img", "pixel_values")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one file."""

    image: str
    is_struct: bool
    """Whether the encoded image is the field `bytes` of `image`, or `image` itself."""
    label: str | None
    """None if there is none."""
    class_names: list[str] | None
    """Names of integer labels, as the file's `huggingface` metadata declares them."""
    remarks: list[str]
    """As in `Source.remarks`."""


def find_columns(schema: pa.Schema, where: str, *, needs_label: bool) -> Columns:
    """Find the columns of the file `where` by the Hub's metadata, names and types; raise a DataError if none fits."""
    features = _features(schema)
    image, others = _image_column(schema, features, where)
    label = _label_column(schema, features, where)
    if label is None and needs_label:
        raise DataError(
            f"{where} has no label column among {_described(schema)}; looked for {', '.join(_LABEL_NAMES)}, or an only "
            "column of integers. Rename the column to 'label'."
        )
    names = features.get(label, {}).get("names") if label else None
    return Columns(
        image=image,
        is_struct=pa.types.is_struct(schema.field(image).type),
        label=label,
        class_names=[str(name) for name in names] if isinstance(names, list) else None,
        remarks=remark("other image columns left out", others),
    )


def value_type(data_type: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, also where they are kept in a dictionary."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def is_text(data_type: pa.DataType) -> bool:
    """Return whether a column's values are strings."""
    own = value_type(data_type)
    return bool(pa.types.is_string(own) or pa.types.is_large_string(own) or pa.types.is_string_view(own))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the Hub's description of each column; metadata of another form is ignored."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _image_column(schema: pa.Schema, features: dict[str, dict[str, Any]], where: str) -> tuple[str, list[str]]:
    """Return the image column and the names of others that could be it."""
    fitting = [field.name for field in schema if _holds_files(field.type)]
    declared = [name for name in fitting if features.get(name, {}).get("_type") == "Image"]
    candidates = declared or fitting
    if not candidates:
        raise DataError(
            f"{where} has no image column among {_described(schema)}; needed are encoded images (PNG, JPEG, ...), as "
            "a column of bytes or of structs with the field 'bytes', best named 'image'. Arrays of pixels aren't read."
        )
    named = [name for name in _IMAGE_NAMES if name in candidates]
    if not named and len(candidates) > 1:
        raise DataError(f"{where} has several image columns: {', '.join(candidates)}. Name one of them 'image'.")
    chosen = (named or candidates)[0]
    return chosen, [name for name in candidates if name != chosen]


def _holds_files(data_type: pa.DataType) -> bool:
    own = value_type(data_type)
    if pa.types.is_struct(own):
        place = own.get_field_index("bytes")
        return place >= 0 and _is_binary(own.field(place).type)
    return _is_binary(own)


def _is_binary(data_type: pa.DataType) -> bool:
    kinds: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
    )  # fmt: skip
    return any(kind(data_type) for kind in kinds)


def _label_column(schema: pa.Schema, features: dict[str, dict[str, Any]], where: str) -> str | None:
    numbers = [field.name for field in schema if _is_whole(field.type)]
    for name in _LABEL_NAMES:
        if name in schema.names:
            if name in numbers or is_text(schema.field(name).type):
                return name
            raise DataError(
                f"The label column {name!r} of {where} is of type {schema.field(name).type}; "
                "allowed: integers and strings."
            )
    classes = [name for name in numbers if features.get(name, {}).get("_type") == "ClassLabel"]
    candidates = classes or numbers
    return candidates[0] if len(candidates) == 1 else None


def _is_whole(data_type: pa.DataType) -> bool:
    own = value_type(data_type)
    return bool(pa.types.is_integer(own) or pa.types.is_boolean(own))


def _described(schema: pa.Schema) -> str:
    return listed((f"{field.name} ({field.type})" for field in schema), most=10)
