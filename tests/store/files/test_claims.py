from __future__ import annotations

import threading
import time

import pytest

from dim_ray.errors import ResourceError, StorageError
from dim_ray.store.files import claims
from dim_ray.store.files.claims import claimed
from dim_ray.store.files.filesystem import Root, open_root
from tests.helpers import s3
from tests.helpers.s3 import Fault, Proxy

KEY = "studies/tiny/driver"
LEASE_SECONDS = 4.0
"""Ages have whole seconds: those of an object store's listing."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_LEASE_SECONDS", LEASE_SECONDS)
    monkeypatch.setattr(claims, "_RENEW_SECONDS", 0.5)
    monkeypatch.setattr(claims, "_LOOK_SECONDS", 0.5)


@pytest.fixture
def remote(object_store: str) -> Root:
    return open_root(object_store)


def hold(root: Root) -> None:
    with claimed(root, KEY, "study 'tiny'"):
        pass


def leave_a_claim(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process leaves that was killed."""
    with monkeypatch.context() as patch:
        patch.setattr(claims, "_user", lambda: "ann")
        claims._Claim(root, KEY, "study 'tiny'").acquire()


def test_second_one_is_told_who_has_it_and_since_when(remote: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_user", lambda: "ann")
    with (
        claimed(remote, KEY, "study 'tiny'") as check,
        pytest.raises(ResourceError, match=r"study 'tiny' is being run by ann@.*, process \d+, since 20.* UTC\. Wait"),
    ):
        hold(remote)
    check()
    hold(remote)  # the first one has ended
    assert remote.children(KEY) == []


def test_killed_holder_blocks_for_no_longer_than_its_lease(remote: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_a_claim(remote, monkeypatch)
    began = time.monotonic()
    hold(remote)
    assert 1 < time.monotonic() - began < 30
    assert remote.children(KEY) == []


def test_of_many_that_begin_together_never_two_have_it(remote: Root) -> None:
    lock, ends = threading.Lock(), []

    def run() -> None:
        try:
            with claimed(remote, KEY, "study 'tiny'"):
                assert lock.acquire(blocking=False)
                time.sleep(1)
                lock.release()
            ends.append("held")
        except ResourceError:
            ends.append("refused")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 4  # none of the assertions failed
    assert "held" in ends


def test_holder_whose_storage_was_away_continues_if_nobody_took_over(remote: Root) -> None:
    with Proxy() as proxy:
        behind = open_root(proxy.uri(remote.path))
        with claimed(behind, KEY, "study 'tiny'") as check:
            with proxy.doing(Fault("deny", "PUT"), Fault("deny", "HEAD")):
                time.sleep(LEASE_SECONDS + 2)
            time.sleep(2)
            check()
            with pytest.raises(ResourceError, match="is being run by"):
                hold(remote)


def test_holder_whose_claim_was_taken_over_while_its_storage_was_away_ends(remote: Root) -> None:
    with Proxy() as proxy:
        behind = open_root(proxy.uri(remote.path))
        with claimed(behind, KEY, "study 'tiny'") as check:
            proxy.faults += [Fault("deny", "PUT"), Fault("deny", "HEAD")]
            with claimed(remote, KEY, "study 'tiny'") as check_second:
                proxy.faults.clear()
                time.sleep(4)
                with pytest.raises(ResourceError, match=r"study 'tiny' was taken over by .*, since 20"):
                    check()
                check_second()


def test_claim_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, object_store: str) -> None:
    with Proxy() as proxy, proxy.doing(Fault("deny", "PUT")), pytest.raises(StorageError, match="denies access"):
        hold(open_root(proxy.uri(s3.new_bucket())))
