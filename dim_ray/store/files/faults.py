"""Try again what a storage refuses for now, and report errors with advice.

    with storage_errors("write", address):
        patiently(lambda: put(data), PAUSES_SECONDS, f"write {address}")

A full disk, a silent server and throttling may pass, so they are tried again. A denied permission or a wrong address
is an error at once.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa

from dim_ray.errors import StorageError
from dim_ray.progress.notices import log

__all__ = ["PAUSES_SECONDS", "can_pass", "is_gone", "patiently", "storage_errors"]

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0)
"""Pauses between attempts: 47.5 seconds in all."""
_MIN_PAUSES = 2

_PASSING_CODES = frozenset(
    {
        errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT,
        errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
# pyarrow reports errors of an object store only as text.
_PASSING_TEXTS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT)"
    r"|AWS Error NO_SUCH_UPLOAD"  # an upload in parts whose last answer was lost: it begins anew
    r"|HTTP status (408|429|5\d\d)"
    r"|google::cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|ABORTED)"
)
_GONE = re.compile(r"AWS Error (NO_SUCH_KEY|RESOURCE_NOT_FOUND) during GetObject")
_ADVICE = (
    (
        r"NETWORK_CONNECTION|REQUEST_TIMEOUT|Status\((UNAVAILABLE|DEADLINE_EXCEEDED)",
        "the object store doesn't answer ({}). Check the network and the root's address, and run the command again.",
    ),
    (
        r"SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|HTTP status (408|429|5\d\d)|RESOURCE_EXHAUSTED",
        "the object store refuses requests at the moment ({}). Run the command again later.",
    ),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE|TOKEN|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED",
        "the object store denies access ({}). Check the credentials and what they may do in this bucket.",
    ),
    (r"NO_SUCH_BUCKET", "there is no such bucket ({}). Make it, or choose another root with --storage."),
)
_OF_OBJECT_STORE = re.compile(r"AWS Error|google::cloud::Status")

_Result = TypeVar("_Result")


def can_pass(error: Exception) -> bool:
    """Return whether an error of the operating system, pyarrow or an object store may pass while the command runs."""
    code = getattr(error, "errno", None)
    return code in _PASSING_CODES if code is not None else _PASSING_TEXTS.search(str(error)) is not None


def is_gone(error: Exception) -> bool:
    """Return whether an error says that there is no such file; S3 may say so only in the text."""
    return isinstance(error, FileNotFoundError) or _GONE.search(str(error)) is not None


def patiently(call: Callable[[], _Result], pauses_seconds: Sequence[float], what: str) -> _Result:
    """Call a function that reads or writes, again after each pause while its errors can pass.

    Once the sum of the pauses has passed, slow attempts included, there is no other attempt, but there are at least
    three.
    """
    began = time.monotonic()
    for number, pause_seconds in enumerate(pauses_seconds):
        try:
            result = call()
        except (OSError, pa.ArrowException) as error:
            left_seconds = max(sum(pauses_seconds) - (time.monotonic() - began), pause_seconds)
            if not can_pass(error) or (number >= _MIN_PAUSES and time.monotonic() - began > sum(pauses_seconds)):
                raise
            level = logging.INFO if number else logging.WARNING
            log.log(level, "Can't %s: %s Trying again for up to %.0f s.", what, _reason(error), left_seconds)
            time.sleep(pause_seconds)
        else:
            if number:
                log.warning("The storage works again, after %.0f s: %s.", time.monotonic() - began, what)
            return result
    return call()


@contextmanager
def storage_errors(action: str, address: str) -> Iterator[None]:
    """Turn errors of the operating system, pyarrow or an object store into a StorageError that says what to do."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"can't {action} {address}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another root with --storage."
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission denied; change the folder's permissions or choose another root with --storage."
    if code == errno.ENOENT:
        return "there is no such place; choose another root with --storage."
    if code in (errno.ENOTDIR, errno.EEXIST):
        return f"a part of this path is a file where a folder is needed ({_brief(error)})."
    brief = _brief(error)
    if _OF_OBJECT_STORE.search(brief):
        return next((advice.format(brief) for texts, advice in _ADVICE if re.search(texts, brief)), f"{brief}.")
    return f"{brief}."


def _brief(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = text.partition(" error_info=")[0]  # Google's library adds a screen of details
    return text.strip().splitlines()[0].rstrip(".:") if text.strip() else type(error).__name__
