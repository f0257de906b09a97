"""Uploads of states, with functions that write slowly, refuse, or fail."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from dim_ray.errors import StorageError
from dim_ray.pipeline.uploads import Encode, Uploads, UploadTimes

QUICK = UploadTimes(give_up_seconds=30.0, pauses_seconds=(0.01,), last_seconds=10.0)


class Storage:
    """Keeps what it is given; waits while it's shut, refuses while it's full."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.written: list[bytes] = []
        self.num_tries = 0
        self.began = threading.Event()
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_full = is_full

    def write(self, data: bytes) -> None:
        self.num_tries += 1
        self.began.set()
        assert self.is_open.wait(30)
        if self.is_full:
            raise StorageError("can't write it: the disk is full.")
        self.written.append(data)


def state(data: bytes) -> Callable[[], Encode]:
    return lambda: lambda: data


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_put_does_not_wait_and_of_the_states_that_wait_the_newest_is_written() -> None:
    storage = Storage()
    uploads = Uploads(storage.write, "state", QUICK)
    storage.is_open.clear()
    uploads.put(state(b"1"))
    assert storage.began.wait(30)
    for data in (b"2", b"3", b"4"):
        uploads.put(state(data))
    assert storage.written == []
    storage.is_open.set()
    uploads.finish()
    assert storage.written == [b"1", b"4"]


def test_nothing_more_than_one_state_that_is_written_and_one_that_waits_is_in_memory() -> None:
    class Copied:
        """Stands for the tensors of a state."""

        def __call__(self) -> bytes:
            return b"bytes"

    copies: weakref.WeakSet[Copied] = weakref.WeakSet()
    held: list[int] = []

    def copy() -> Encode:
        gc.collect()
        held.append(len(copies))
        copied = Copied()
        copies.add(copied)
        return copied

    storage = Storage()
    uploads = Uploads(storage.write, "state", QUICK)
    storage.is_open.clear()
    uploads.put(copy)
    assert storage.began.wait(30)
    wait_for(lambda: not copies)  # bytes take the place of the tensors
    for _ in range(5):
        uploads.put(copy)
    assert held == [0] * 6
    storage.is_open.set()
    uploads.finish()
    assert not copies


def test_refused_state_is_tried_again_and_the_person_is_told_once_and_once_that_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", QUICK)
    uploads.put(state(b"1"))
    wait_for(lambda: storage.num_tries >= 3)
    uploads.put(state(b"2"))
    wait_for(lambda: storage.num_tries >= 6)
    storage.is_full = False
    uploads.finish()
    assert storage.written == [b"2"]
    first, second = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "continues without its checkpoint" in first
    assert "the disk is full" in first
    assert "is written again" in second


def test_pauses_between_tries_grow() -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", UploadTimes(pauses_seconds=(0.0, 0.0, 60.0), last_seconds=0.0))
    uploads.put(state(b"1"))
    wait_for(lambda: storage.num_tries == 3)
    time.sleep(0.1)
    assert storage.num_tries == 3
    uploads.cancel()  # and needn't wait for the pause


def test_storage_that_refuses_for_too_long_is_an_error_of_the_next_put() -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", UploadTimes(give_up_seconds=0.3, pauses_seconds=(0.01,)))
    uploads.put(state(b"old"))
    wait_for(lambda: storage.num_tries > 1)
    uploads.put(state(b"newer"))
    time.sleep(0.4)
    with pytest.raises(StorageError, match=r"state couldn't be written for .*the disk is full.*run the same command"):
        uploads.put(state(b"newest"))
    storage.is_full = False
    uploads.finish()
    assert storage.written == [b"newest"], "it's tried nevertheless"


def test_refusals_are_counted_from_the_last_state_that_was_written() -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", UploadTimes(give_up_seconds=0.5, pauses_seconds=(0.01,)))
    for number in range(3):
        storage.is_full = True
        uploads.put(state(b"%d" % number))
        wait_for(lambda: storage.num_tries > 0)
        time.sleep(0.3)
        uploads.put(state(b"%d" % number))
        storage.is_full = False
        uploads.finish()
    assert storage.written == [b"0", b"1", b"2"]


def test_finish_tries_for_a_while_and_then_says_what_is_wrong() -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", UploadTimes(pauses_seconds=(0.02,), last_seconds=0.2))
    uploads.put(state(b"1"))
    began = time.monotonic()
    with pytest.raises(StorageError, match="the disk is full"):
        uploads.finish()
    assert 0.15 < time.monotonic() - began < 10
    assert storage.num_tries > 2


def test_finish_does_not_wait_for_the_end_of_a_pause() -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", UploadTimes(pauses_seconds=(600.0,)))
    uploads.put(state(b"1"))
    wait_for(lambda: storage.num_tries == 1)
    time.sleep(0.05)
    storage.is_full = False
    uploads.finish()
    assert storage.written == [b"1"]


def test_nothing_is_written_after_cancel() -> None:
    storage = Storage()
    uploads = Uploads(storage.write, "state", QUICK)
    storage.is_open.clear()
    uploads.put(state(b"1"))
    assert storage.began.wait(30)
    uploads.put(state(b"2"))
    threading.Timer(0.2, storage.is_open.set).start()
    uploads.cancel()
    written = list(storage.written)
    time.sleep(0.1)
    assert storage.written == written == [b"1"], "cancel waits for what is under way"
    uploads.put(state(b"3"))
    uploads.finish()
    assert storage.written == [b"1", b"3"]


def test_nothing_that_was_refused_is_written_after_cancel() -> None:
    storage = Storage(is_full=True)
    uploads = Uploads(storage.write, "state", QUICK)
    uploads.put(state(b"1"))
    wait_for(lambda: storage.num_tries > 1)
    uploads.cancel()
    storage.is_full = False
    time.sleep(0.1)
    assert storage.written == []
    uploads.finish()  # and it's no error any more


@pytest.mark.parametrize("is_finished", [False, True])
def test_defect_of_the_thread_comes_to_light(is_finished: bool) -> None:
    def broken() -> bytes:
        raise ZeroDivisionError

    uploads = Uploads(Storage().write, "state", QUICK)
    before = threading.active_count()
    uploads.put(lambda: broken)
    wait_for(lambda: threading.active_count() == before)
    with pytest.raises(ZeroDivisionError):
        uploads.finish() if is_finished else uploads.put(state(b"1"))


def test_threads_end_with_what_they_have_to_do() -> None:
    uploads = Uploads(Storage().write, "state", QUICK)
    before = threading.active_count()
    uploads.put(state(b"1"))
    uploads.finish()
    wait_for(lambda: threading.active_count() == before)
