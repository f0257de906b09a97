"""A board without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dim_ray.distributed.board import Board


class Method:
    """A method that is called as an actor's is, in this process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function


class LocalBoard:
    """A board in this process that counts the posts."""

    def __init__(self) -> None:
        self.num_posts = 0
        self.post = Method(self._post)
        self._board = Board()
        self.begin = Method(self._board.begin)
        self.nodes = Method(self._board.nodes)
        self.read = Method(self._board.read)
        self.tell = Method(self._board.tell)
        self.take_notices = Method(self._board.take_notices)

    def _post(self, job: str, done: float) -> None:
        self.num_posts += 1
        self._board.post(job, done)
