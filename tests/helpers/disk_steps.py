"""A disk that stops at every step of what is done to it, for tests to look, to interfere, or to crash there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dim_ray.store.files import filesystem
from dim_ray.store.files.filesystem import Root

Hook = Callable[[str, str], object]
"""Takes what will be done, and the path of the file."""


class Crash(BaseException):
    """What a test raises in the place of a process that dies."""


class _Steps:
    """Says before each change what it will be, and hands everything on."""

    def __init__(self, inner: Any, hook: Hook) -> None:
        self._inner = inner
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        called = getattr(self._inner, name)
        if name not in ("move", "delete_file", "open_input_stream"):
            return called

        def call(path: str, *others: str) -> Any:
            self._hook(name, path)
            return called(path, *others)

        return call


@contextmanager
def steps(hook: Hook) -> Iterator[None]:
    """Calls the hook before each "move", "delete_file", "open_input_stream" and "write", and after a write: "written".

    What the hook itself does goes through unseen. Of roots that are opened meanwhile, on disks alone.
    """
    is_inside = False

    def guarded(step: str, path: str) -> None:
        nonlocal is_inside
        if not is_inside:
            is_inside = True
            try:
                hook(step, path)
            finally:
                is_inside = False

    local, replace_file = filesystem._local, filesystem._replace_file

    def watched(path: str, pauses_seconds: tuple[float, ...]) -> Root:
        root = local(path, pauses_seconds)
        return replace(root, filesystem=_Steps(root.filesystem, guarded))

    def write(target: str, data: bytes) -> None:
        guarded("write", target)
        replace_file(target, data)
        guarded("written", target)

    filesystem._local, filesystem._replace_file = watched, write
    try:
        yield
    finally:
        filesystem._local, filesystem._replace_file = local, replace_file


def crash_at(number: int) -> Hook:
    """Returns a hook that raises at one step, counted from 0."""
    count = -1

    def hook(step: str, path: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Crash(step, path)

    return hook
