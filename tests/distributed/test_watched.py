"""What the driver hears of a run's workers, with Ray's end of the board replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import ray

from dim_ray.distributed import watched
from dim_ray.distributed.watched import watching
from dim_ray.progress.notices import told
from tests.helpers.local_board import LocalBoard, Method


class EndingBoard(LocalBoard):
    """A board that can be read from afar, and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.read = Method(self._board.read)
        self.is_ended = False

    def end(self) -> None:
        def refuse() -> None:
            raise ray.exceptions.ActorDiedError

        self.is_ended = True
        self.read = self.take_notices = Method(refuse)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> EndingBoard:
    """Is looked at when the body has ended, and not before."""
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "kill", EndingBoard.end)
    monkeypatch.setattr(watched, "_SECONDS_BETWEEN_LOOKS", 600.0)
    return EndingBoard()


@pytest.fixture
def shown() -> Iterator[list[str]]:
    texts: list[str] = []
    with told(texts.append):
        yield texts


def fail_after(action: Callable[..., None], *arguments: str) -> None:
    action(*arguments)
    raise ZeroDivisionError


def test_notice_of_the_last_moment_reaches_the_person(board: EndingBoard, shown: list[str]) -> None:
    with watching(board):
        board.tell.remote("the disk of node 2 is full")
    assert shown == ["the disk of node 2 is full"]
    assert board.is_ended


def test_notice_before_a_failure_reaches_the_person_beside_the_error(board: EndingBoard, shown: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), watching(board):
        fail_after(board.tell.remote, "the disk of node 2 is full")
    assert shown == ["the disk of node 2 is full"]
    assert board.is_ended


def test_progress_is_told_to_the_end(board: EndingBoard) -> None:
    seen: list[tuple[float, str]] = []
    with watching(board, {"prior": 1.0, "teacher 0": 3.0}, lambda share, note: seen.append((share, note))):
        board.post.remote("teacher 0", 1.0)
        board.post.remote("prior", 0.5)
    assert seen == [(0.875, "prior 50%")]


def test_board_that_died_hides_no_error_of_the_run(board: EndingBoard) -> None:
    with pytest.raises(ZeroDivisionError), watching(board, {"prior": 1.0}, lambda share, note: None):
        fail_after(board.end)
