"""Names of data sets, studies and classes that stand in paths, on any storage, and that readers of the rows understand.

plain_name("数据 (1)", "data")      # "数据__1_"
path_name("2024", "data")  # "data-2024": pandas, polars and duckdb take the folder dataset=2024 for a number
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["MAX_NAME_BYTES", "is_device", "is_name", "name_key", "path_name", "plain_name"]

MAX_NAME_BYTES = 100
"""Longest name that a person may give, in UTF-8."""

_PLAIN_BYTES = 80  # leaves room for a prefix, a digest and the hash of a study's configuration
_PART_BYTES = 210  # leaves room in 255 for dataset= and for the ending of an unfinished file
_SIGNS = "._-"
_LETTERS = ("L", "M", "N", "So")  # Unicode's letters, marks, digits, and pictures
_FORMAT = "Cf"  # characters without a width
# Tried with pandas, polars and duckdb in tests/store/test_names_in_paths.py.
_MISREAD = re.compile(
    r"\d[\d._\-etz]*|0[xbo][\da-f_]*|(true|false|null|none|nan|inf|infinity|epoch|hive_default_partition)_*",
    re.IGNORECASE,
)
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows's


def is_name(text: str) -> bool:
    """Return whether a string may stand in a path: letters, digits, '.', '_' and '-', the first no sign."""
    return (
        text == _without_start(text) != ""
        and all(_may_stand(character) for character in text)
        and unicodedata.is_normalized("NFC", text)
        and len(text.encode()) <= _PART_BYTES
    )


def plain_name(text: str, otherwise: str) -> str:
    """Return a string as a name of at most 80 bytes, with `_` for what can't stand in a path; `otherwise` if empty."""
    seen = "".join(character for character in text if unicodedata.category(character) != _FORMAT)
    name = "".join(character if _may_stand(character) else "_" for character in unicodedata.normalize("NFC", seen))
    return _without_start(name).encode()[:_PLAIN_BYTES].decode(errors="ignore").rstrip(".") or otherwise


def path_name(name: str, kind: str) -> str:
    """Return a name as it stands in paths: with the prefix `kind` if it would be taken for a number, date or null."""
    name = unicodedata.normalize("NFC", name)
    return f"{kind}-{name}" if _MISREAD.fullmatch(name) or is_device(name) else name


def is_device(name: str) -> bool:
    """Return whether Windows would take a file of this name for a device."""
    return _DEVICE.fullmatch(name) is not None


def name_key(name: str) -> str:
    """Return what is the same for names that some disks don't tell apart."""
    return unicodedata.normalize("NFC", name.lower())


def _without_start(text: str) -> str:
    """Return a string from its first letter or digit; a mark there would change the character before it in a path."""
    start = (at for at, character in enumerate(text) if not unicodedata.category(character).startswith(("M", "P")))
    return text[next(start, len(text)) :]


def _may_stand(character: str) -> bool:
    return character in _SIGNS or unicodedata.category(character).startswith(_LETTERS)
