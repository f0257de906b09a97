"""Keep stdout and stderr from failing a command: whatever their encoding, and if they are closed or full.

prepare_output()
failure = close_broken(sys.stdout)     # None, or why it can't be written
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["close_broken", "prepare_output", "say"]


def prepare_output() -> None:
    """Write symbols that an encoding lacks as escapes, and let a closed stream lead nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed; what is opened next would take its descriptor, and subprocesses write into it
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nowhere, True)
            stream = os.fdopen(nowhere, "r" if name == "stdin" else "w", encoding="utf-8")
            setattr(sys, name, stream)
        if name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_broken(stream: TextIO) -> OSError | None:
    """Flush a stream; if it can't be written, send it nowhere from now on and return why."""
    try:
        stream.flush()
    except OSError as error:
        # The interpreter flushes again at exit, and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def say(text: str) -> None:
    """Print a line on stderr, if it can be written."""
    with suppress(OSError):
        print(text, file=sys.stderr)
