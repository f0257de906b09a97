"""The errors that a person sees: one sentence of what, received, allowed and what to do.

The command line prints the message of a `DimError` without a traceback and exits with its `exit_code`.
Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
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
    "nearest",
]


class DimError(Exception):
    """Base of every error that we raise for a person to read."""

    exit_code = 1


class UsageError(DimError):
    """The command was called with something that can't work; nothing was run."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is impossible, alone or together with another."""


class DataError(UsageError):
    """A data set is unknown, missing, corrupt or of a shape that we don't support."""


class ResourceError(UsageError):
    """The machine or cluster can never provide what the plan needs."""


class StorageError(DimError):
    """The storage can't be read or written, or holds something other than expected."""


class StorageAddressError(StorageError, UsageError):
    """The storage root is no address, or leads to nothing that could be one."""


class ArtifactError(StorageError):
    """A stored file is truncated, altered, of the wrong kind, or of a newer format."""


class NewerFormatError(ArtifactError):
    """A stored file is of a newer format: it isn't damaged, and a newer version reads it."""


class DivergedError(DimError):
    """Training left the range of finite numbers; the last good state is kept."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which names are known and which is nearest, for the end of an error message.

    Returns:
        For example ``"did you mean 'digits'? Known: cifar10, digits."``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known: {', '.join(names)}."
