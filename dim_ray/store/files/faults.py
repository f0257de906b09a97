"""What a storage refuses: which refusals can pass, how long they are waited out, and what a person is told.

    with storage_errors("write", address):
        patiently(lambda: put(data), PAUSES_SECONDS, f"write {address}")

A disk that is full is freed, a server comes back and throttling ends, so these are tried again. A permission or a
wrong address stays what it is, and is told at once.
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
"""Between one try and the next: 47.5 seconds in all, or three tries where these take longer."""
_MIN_PAUSES = 2

_PASSING_CODES = frozenset(
    {
        errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT,
        errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
# pyarrow gives the errors of an object store as a text alone.
_PASSING_TEXTS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT)"
    r"|AWS Error NO_SUCH_UPLOAD"  # an upload in parts whose end was answered to nobody: it begins anew
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
    """Whether what the operating system, pyarrow or an object store raised may end while the command runs."""
    code = getattr(error, "errno", None)
    return code in _PASSING_CODES if code is not None else _PASSING_TEXTS.search(str(error)) is not None


def is_gone(error: Exception) -> bool:
    """Whether it says that there is no such file: of S3 a text alone where it went after its size was asked for."""
    return isinstance(error, FileNotFoundError) or _GONE.search(str(error)) is not None


def patiently(call: Callable[[], _Result], pauses_seconds: Sequence[float], what: str) -> _Result:
    """Calls a function that reads or writes, again after each pause while what it raises can pass.

    Args:
        call: May be called any number of times.
        pauses_seconds: One between two tries; none: a single try. After their sum, with the time of
            the tries themselves, it's tried no more, but three times at least.
        what: It does, for the log.
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
            log.log(level, "Can't %s: %s It's tried again, for up to %.0f s.", what, _reason(error), left_seconds)
            time.sleep(pause_seconds)
        else:
            if number:
                log.warning("The storage works again, after %.0f s: %s.", time.monotonic() - began, what)
            return result
    return call()


@contextmanager
def storage_errors(action: str, address: str) -> Iterator[None]:
    """Turns what the operating system, pyarrow or an object store raises into a StorageError that says what to do."""
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
    text = text.partition(" error_info=")[0]  # Google's library goes on for a screen
    return text.strip().splitlines()[0].rstrip(".:") if text.strip() else type(error).__name__
