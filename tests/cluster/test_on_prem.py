"""`ray up` on three hosts: a study that loses one of them, a stranger who is kept out, and nothing left afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster.hosts import missing
from tests.cluster.on_prem import LaptopStudy, OnPrem

UP_SECONDS = AGAIN_SECONDS = 90.0
LEAVE_SECONDS = 120.0
FLAGS = {
    "--workers-per-trial": "2",
    "--study.max_failures": "2",
    "--study.pool_sizes": "2",
    "--pool.epochs": "10",
    "--prior.epochs": "4",
    "--matching.epochs": "60",
    "--study.grace_epochs": "60",
}

pytestmark = [
    pytest.mark.multihost,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPrem]:
    with OnPrem(tmp_path_factory.mktemp("on_prem")) as cluster:
        yield cluster


def test_ray_up_brings_all_hosts_up_with_the_code_of_the_checkout(cluster: OnPrem) -> None:
    print(f"ray up: {cluster.up_seconds:.0f} s, all nodes: {cluster.ready_seconds:.0f} s")
    assert cluster.ready_seconds < UP_SECONDS
    where = "python -c 'import dim_ray, os; print(dim_ray.__file__, os.environ[\"RAY_ADDRESS\"])'"
    assert cluster.on_head(where).split() == ["/root/dim-ray/dim_ray/__init__.py", "auto"]


def test_study_finishes_with_its_rows_where_a_host_is_cut_off_the_network(cluster: OnPrem) -> None:
    study = LaptopStudy(cluster.storage, 2, FLAGS)

    def cut_off() -> None:
        training = [host for host in cluster.workers if host.processes("ray::RayTrainWorker")]
        cluster.network.cut_off(training[0])

    try:
        study.start(cluster)
        study.harm_training(["trial 0"], "a host cut off the network", cut_off)
        (harm,) = study.finish()
    finally:
        study.clear()
    print(harm)
    assert harm.again_seconds < AGAIN_SECONDS
    assert (harm.num_lost, harm.num_doubled) == (0, 0)


def test_ray_down_leaves_no_process_of_ray(cluster: OnPrem) -> None:
    assert cluster.ray_processes()
    status, output = cluster.ray("down", "--yes", str(cluster.configuration))
    assert status == 0, output
    until = time.monotonic() + LEAVE_SECONDS
    while (left := cluster.ray_processes()) and time.monotonic() < until:
        time.sleep(1)
    assert left == {}, output
