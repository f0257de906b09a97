"""The table of claims, without Ray."""

from __future__ import annotations

import pytest

from dim_ray.distributed.claims import LEASE_SECONDS, ClaimTable

KEYS = ["storage/teachers/0", "storage/teachers/1"]


class Clock:
    """Says what it was set to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> ClaimTable:
    return ClaimTable(clock)


def test_first_to_ask_gets_all_and_the_second_is_told_who_has_them(table: ClaimTable) -> None:
    assert table.claim(KEYS, "a", "digits") == {}
    assert table.claim([*KEYS, "storage/priors/2"], "b", "mnist") == dict.fromkeys(KEYS, "digits")
    assert table.held(["storage/priors/2"], "a") == {"storage/priors/2": "mnist"}  # the rest was granted


def test_claim_ends_with_its_lease(table: ClaimTable, clock: Clock) -> None:
    table.claim(KEYS, "a", "digits")
    clock.now += LEASE_SECONDS - 0.1
    assert set(table.held(KEYS, "b")) == set(KEYS)
    clock.now += 0.2
    assert table.held(KEYS, "b") == {}
    assert table.claim(KEYS, "b", "mnist") == {}
    assert table.claim(KEYS, "a", "digits") == dict.fromkeys(KEYS, "mnist")


def test_holder_renews_its_claim_and_nobody_else_does(table: ClaimTable, clock: Clock) -> None:
    table.claim(KEYS, "a", "digits")
    clock.now += LEASE_SECONDS - 1
    assert table.claim(KEYS[:1], "a", "digits") == {}
    assert set(table.claim(KEYS[1:], "b", "mnist")) == set(KEYS[1:])
    clock.now += 2
    assert set(table.held(KEYS, "b")) == set(KEYS[:1])
    assert table.held(KEYS, "a") == {}


def test_release_frees_what_is_the_holders_own_alone(table: ClaimTable) -> None:
    table.claim(KEYS[:1], "a", "digits")
    table.claim(KEYS[1:], "b", "mnist")
    table.release([*KEYS, "storage/priors/never"], "a")
    assert table.held(KEYS, "c") == {KEYS[1]: "mnist"}


def test_two_storages_are_two_places(table: ClaimTable) -> None:
    table.claim(["/one/teachers/0"], "a", "digits")
    assert table.claim(["/two/teachers/0"], "b", "digits") == {}
