"""`ray up` on three hosts: a study that loses one of them, a stranger who is kept out, and nothing left afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dim_ray
from tests.helpers.cluster_files import ROOT, head_port
from tests.helpers.hosts import missing
from tests.helpers.on_prem import LaptopStudy, OnPrem
from tests.helpers.runs import space

UP_SECONDS = AGAIN_SECONDS = 90.0
LEAVE_SECONDS = 120.0
FLAGS = {
    "--workers-per-trial": "2",
    "--study.max_failures": "2",
    "--study.space": space({"pool.size": [2]}),
    "--pool.epochs": "10",
    "--prior.epochs": "4",
    "--matching.epochs": "45",
    "--study.grace_epochs": "45",
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


def test_stranger_on_the_network_sees_nothing_submits_nothing_and_joins_nothing(cluster: OnPrem) -> None:
    stranger, head = cluster.network.add("stranger"), cluster.head.address
    drive = f"import ray; ray.init('ray://{head}:10001'); print(len(ray.nodes()), 'nodes')"
    forms = {
        "sees": ("ray", "status", f"--address={head}:{head_port()}"),
        "drives": ("python", "-c", drive),
        "submits": ("ray", "job", "submit", f"--address=http://{head}:8265", "--", "true"),
        "joins": ("ray", "start", f"--address={head}:{head_port()}"),
    }
    none, another = ("RAY_AUTH_MODE=disabled",), ("RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={'0' * 64}")
    attempts = [(form, environment) for form in forms for environment in (none, another)]
    before = cluster.count_nodes()
    with ThreadPoolExecutor(len(attempts)) as threads:
        outcomes = list(threads.map(lambda it: stranger.run(*forms[it[0]], environment=it[1]), attempts))
    told = {attempt: f"{done.stdout}\n{done.stderr}" for attempt, done in zip(attempts, outcomes, strict=True)}
    assert all(done.returncode for done in outcomes), told
    assert cluster.count_nodes() == before
    # With the token it's no stranger any more: the attempts were such as succeed.
    token = ("RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={cluster.laptop.run('ray', 'get-auth-token').stdout}")
    status = stranger.run(*forms["sees"], environment=token)
    assert f"{before} local.cluster.node" in status.stdout, status.stdout + status.stderr
    assert f"{before} nodes" in stranger.run(*forms["drives"], environment=token).stdout


def test_dashboard_is_reached_on_the_head_alone_and_with_the_token_alone(cluster: OnPrem) -> None:
    address = "http://{}:8265/api/jobs/"
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).status)"
    outside = cluster.workers[0].run("python", "-c", ask, address.format(cluster.head.address))
    assert "Connection refused" in outside.stderr
    # Another user of the head, who can't read root's files.
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c")
    own = cluster.head.run(*nobody, ask, address.format("127.0.0.1"))
    assert "401" in own.stderr
    submit = 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], b\'{"entrypoint": "true"}\', timeout=5)'
    assert "401" in cluster.head.run(*nobody, submit, address.format("127.0.0.1")).stderr
    assert cluster.head.run(*nobody, "open('/root/.ray/auth_token')").returncode == 1
    cluster.on_head("ray job list")  # with the token it answers


def test_job_needs_the_token_of_the_cluster(cluster: OnPrem) -> None:
    command = ("python", "-m", "dim_ray.tune", "--cluster", str(cluster.configuration), "--attach")
    refused = cluster.laptop.run(*command, cwd=str(ROOT), environment=(f"RAY_AUTH_TOKEN={'0' * 64}",))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "error: The head refuses the token" in refused.stderr
    none = cluster.laptop.run(*command, cwd=str(ROOT))
    assert none.returncode == 2, none.stderr
    assert "The cluster has no job named" in none.stderr


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
    generator = dim_ray.best_generator(str(cluster.storage), dataset="digits", ipc=1)
    assert len(generator.sample(torch.arange(3), seed=0)) == 3
    assert harm.again_seconds < AGAIN_SECONDS
    assert (harm.num_lost, harm.num_doubled) == (0, 0)


def test_ray_down_leaves_no_process_of_ray(cluster: OnPrem) -> None:
    assert cluster.ray_processes()
    status, output = cluster.ray("down", "--yes", str(cluster.configuration))
    assert status == 0, output
    print(f"after ray down: {cluster.ray_processes()}")
    until = time.monotonic() + LEAVE_SECONDS
    while (left := cluster.ray_processes()) and time.monotonic() < until:
        time.sleep(1)
    assert left == {}, output
