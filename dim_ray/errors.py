"""Errors for the user, whose messages say what is wrong, the value received, what is allowed, and what to do.

The command line prints the message of a `DimError` without a traceback and exits with its `exit_code`. Any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "DimError",
    "DivergedError",
    "NewerFormatError",
    "ResourceError",
    "StorageAddressError",
    "StorageError",
    "UsageError",
    "cut_words",
    "listed",
    "nearest",
    "one_line",
]

_LONGEST_NAME = 200
_MOST_KNOWN = 20


class DimError(Exception):
    """Base of all errors that are raised for the user."""

    exit_code = 1


class UsageError(DimError):
    """The command can't work as it was called; nothing was run."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is impossible by itself or together with another."""


class DataError(UsageError):
    """A dataset is unknown, missing, corrupt or of an unsupported shape."""


class ResourceError(UsageError):
    """The machine or cluster can never provide what the run needs."""


class StorageError(DimError):
    """The storage can't be read or written, or its contents are unexpected."""


class StorageAddressError(StorageError, UsageError):
    """The storage root is no valid address."""


class ArtifactError(StorageError):
    """A stored file is truncated, altered, of the wrong kind, or in a newer format."""


class NewerFormatError(ArtifactError):
    """A stored file is in a newer format, which only a newer version can read."""


class DivergedError(DimError):
    """Training reached numbers that aren't finite; the last good state is kept."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: ``"did you mean 'digits'? Known: cifar10, digits."``."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {listed(names, _MOST_KNOWN)}."


def listed(names: Iterable[object], most: int = 5, *, between: str = ", ") -> str:
    """Return names for a message: the first ``most``, the others as a count; the middle of a very long one is left out.

    Example: ``listed(["a", "b", "c"], most=2)`` is ``"a, b and 1 more"``.
    """
    every = list(map(str, names))
    end = f" and {len(every) - most:,} more" if len(every) > most else ""
    return between.join(map(_cut, every[:most])) + end


def one_line(error: object) -> str:
    """Return a library's message on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def cut_words(message: str) -> str:
    """Return a message without the middle of its very long words, such as a value that a person gave."""
    return re.sub(rf"\S{{{2 * _LONGEST_NAME},}}", lambda match: _cut(match[0]), message)


def _cut(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"
