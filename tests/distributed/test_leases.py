"""Claims that are held and waited for, and the jobs that claim, with a table in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from dim_ray.core.training.ports import SilentReporter
from dim_ray.distributed import build, leases
from dim_ray.distributed.claims import LEASE_SECONDS, ClaimTable
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.leases import Claims, Held, Waits, hold
from dim_ray.pipeline.priors import prior_is_settled
from dim_ray.pipeline.teachers import missing_teachers
from dim_ray.pipeline.workspace import Workspace
from tests.distributed.test_claims import Clock
from tests.helpers.small import make_work

PLACEMENT = Placement(num_workers=2, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)


class Cluster:
    """A table that several claimants ask, with a clock that is set."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.table = ClaimTable(self.clock)
        self.error: Exception | None = None

    def claims(self, study: str) -> Claims:
        return Claims(holder=study, study=study, ask=self._ask)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self.error is not None:
            raise self.error
        return getattr(self.table, method)(*arguments)


class Recorder:
    """A Progress that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[float] = []

    def start(self, stage: str, total: float, unit: str) -> None:
        self.total = total

    def advance(self, done: float, note: str = "") -> None:
        self.done.append(done)
        self.notes.append(note)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_SECONDS_BETWEEN_RENEWALS", 0.02)
    monkeypatch.setattr(leases, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(build, "_SECONDS_BETWEEN_LOOKS", 0.01)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    yield Cluster()
    assert not [thread for thread in threading.enumerate() if thread.name == "claims"]


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def until(condition: Callable[[], object]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_claim_is_renewed_as_long_as_the_body_runs_and_free_afterwards(cluster: Cluster) -> None:
    with hold(cluster.claims("digits"), {"teacher 3": "k"}) as others:
        assert others == []
        for _ in range(3):
            cluster.clock.now += LEASE_SECONDS - 1
            until(lambda: cluster.table._leases["k"].ends_at == cluster.clock.now + LEASE_SECONDS)
        with hold(cluster.claims("mnist"), {"teacher 3": "k", "teacher 4": "l"}) as theirs:
            assert theirs == [Held(what="teacher 3", key="k", study="digits")]
            assert cluster.table.held(["k", "l"], "digits") == {"l": "mnist"}
        assert cluster.table.held(["k", "l"], "nobody") == {"k": "digits"}  # what wasn't granted isn't released
    assert cluster.table.held(["k"], "nobody") == {}


def test_claim_is_free_after_a_body_that_fails(cluster: Cluster) -> None:
    with pytest.raises(ZeroDivisionError), hold(cluster.claims("digits"), {"teacher 3": "k"}):
        raise ZeroDivisionError
    assert cluster.table.held(["k"], "nobody") == {}


@pytest.mark.parametrize("error", [ActorDiedError(), ActorUnavailableError("restarting", b"0" * 16)])
def test_without_an_answer_all_is_free_and_it_is_claimed_once_the_table_is_back(
    cluster: Cluster, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.error = error
    with hold(cluster.claims("digits"), {"teacher 3": "k"}) as others:
        assert others == []
        assert "Claims can't be asked" in caplog.text
        cluster.error = None
        until(lambda: cluster.table.held(["k"], "nobody"))


def test_without_claims_nothing_is_asked() -> None:
    with hold(None, {"teacher 3": "k"}) as others:
        assert others == []


def test_job_that_waits_is_run_again_when_something_is_free(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster.table.claim(["k", "l", "m"], "b", "Digits")
    waits = Waits(cluster.claims("mnist"), cluster.clock)
    waits.add("one", [Held(what="teacher 3", key="k", study="Digits")])
    waits.add("two", [Held(what="teacher 4", key="l", study="Digits"), Held(what="prior", key="m", study="Digits")])
    assert waits.note() == "waiting for teacher 3, teacher 4 and prior, which study Digits builds"
    assert waits.take_free() == []
    cluster.clock.now += 3
    cluster.table.release(["m"], "b")
    assert waits.take_free() == ["two"]
    assert waits.note() == "waiting for teacher 3, which study Digits builds"
    cluster.clock.now += LEASE_SECONDS
    assert waits.take_free() == ["one"]
    assert not waits
    assert waits.note() == ""
    assert [record.getMessage() for record in caplog.records] == [
        "Now waiting for teacher 3, which study Digits builds.",
        "Now waiting for teacher 4 and prior, which study Digits builds.",
        "Waited 3 s for teacher 4 and prior.",
        "Waited 18 s for teacher 3.",
    ]


def test_nobody_waits_for_a_table_that_is_gone(cluster: Cluster) -> None:
    waits = Waits(cluster.claims("mnist"), cluster.clock)
    waits.add("one", [Held(what="teacher 3", key="k", study="digits")])
    cluster.error = ActorDiedError()
    assert waits.take_free() == ["one"]


def test_note_stays_short() -> None:
    waits = Waits(None)
    waits.add("a", [Held(what=f"teacher {n}", key=str(n), study="digits") for n in range(6)])
    waits.add("b", [Held(what="prior", key="p", study="mnist")])
    assert waits.note() == (
        "waiting for teacher 0, teacher 1, teacher 2 and 3 more, which study digits builds; "
        "waiting for prior, which study mnist builds"
    )


def test_job_builds_what_is_free_and_returns_what_others_hold(cluster: Cluster, work: Workspace) -> None:
    claims = cluster.claims("mnist")
    with build._claimed_teachers(work, [1], cluster.claims("digits")):
        [left] = build._teachers_job(work, (work.config, [0, 1], claims), SilentReporter())
    assert (left.what, left.study) == ("teacher 1", "digits")
    assert missing_teachers(work) == [1]
    assert build._teachers_job(work, (work.config, [0, 1], claims), SilentReporter()) == []
    assert missing_teachers(work) == []


def test_job_of_a_prior_leaves_it_to_its_holder(cluster: Cluster, work: Workspace) -> None:
    capacity = work.config.generator.capacity
    other = with_capacity(work, capacity + 2)
    with build._claimed_prior(work, cluster.claims("digits")):
        [left] = build._prior_job(work, (work.config, cluster.claims("mnist")), SilentReporter())
        assert left.what == f"prior of capacity {capacity}"
        assert not prior_is_settled(work)
        assert build._prior_job(work, (other.config, cluster.claims("mnist")), SilentReporter()) == []
    assert build._prior_job(work, (work.config, cluster.claims("mnist")), SilentReporter()) == []
    assert prior_is_settled(work)


def test_other_storage_is_not_waited_for(cluster: Cluster, work: Workspace, tmp_path: Path) -> None:
    with (
        build._claimed_teachers(work, [0], cluster.claims("digits")),
        build._claimed_teachers(make_work(tmp_path / "other"), [0], cluster.claims("mnist")) as (free, others),
    ):
        assert (free, others) == ([0], [])


def test_runs_of_several_workers_take_what_is_free_first_and_the_rest_when_it_is(
    cluster: Cluster, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    teacher = work.artifacts.uri("teachers", build.teacher_fingerprint(work, 1))
    prior = work.artifacts.uri("priors", build.prior_fingerprint(with_capacity(work, 6)))
    cluster.table.claim([teacher, prior], "b", "digits")

    def run(job: Any, own: Workspace, placement: Placement, *, what: str, costs: Any, **options: Any) -> None:
        assert options.get("is_elastic", False) == (what == "teacher training")
        runs.append(list(costs) if what == "teacher training" else own.config.generator.capacity)
        for name in costs:
            if what == "teacher training":
                build._teachers_job(own, (own.config, _numbers(name), None), SilentReporter())
            else:
                build._prior_job(own, (own.config, None), SilentReporter())

    class Other(Recorder):
        def advance(self, done: float, note: str = "") -> None:
            super().advance(done, note)
            if len(self.notes) == 2:  # the other stores the teacher, and its prior diverges
                build._teachers_job(work, (work.config, [1], None), SilentReporter())
                cluster.table.release([teacher, prior], "b")

    monkeypatch.setattr(build, "run_watched", run)
    progress = Other()
    priors = [with_capacity(work, 8), with_capacity(work, 6)]
    build._build_in_turn([(work, [0, 1])], priors, PLACEMENT, cluster.claims("mnist"), progress)
    assert runs == [["teacher 0"], 8, 6]
    assert set(progress.notes) == {"waiting for teacher 1 and prior of capacity 6, which study digits builds"}
    assert set(progress.done) == {2}
    assert missing_teachers(work) == []


@pytest.mark.parametrize("joins", [True, False])
def test_table_is_asked_on_a_cluster_that_was_joined_alone(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, joins: bool
) -> None:
    seen: list[Claims | None] = []
    monkeypatch.setattr(build, "joins_a_cluster", lambda: joins)
    monkeypatch.setattr(build, "run_tasks", lambda *arguments, claims, **options: seen.append(claims))
    placement = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
    build.build_networks(work, [work.config], placement, Recorder())
    [claims] = seen
    assert (claims.study if claims else None) == ("tiny" if joins else None)


def with_capacity(work: Workspace, capacity: int) -> Workspace:
    return replace(work, config=work.config.with_fields({"generator.capacity": capacity}))


def _numbers(name: str) -> Sequence[int]:
    return [int(number) for number in name.split()[1].split("+")]
