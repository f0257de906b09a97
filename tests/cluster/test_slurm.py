"""cluster/slurm.sh on three nodes of a real Slurm: studies that lose a machine, two users side by side, the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.hosts import Host
from tests.helpers.runs import ONE_STUDENT, arguments, evaluations, space, trials
from tests.helpers.slurm import Slurm, missing_slurm

STUDY_SECONDS = 900.0
JOB_SECONDS = 400.0
LEAVE_SECONDS = 240.0
SHARE = ("--oversubscribe", "--cpus-per-task=1")
NODES = "import ray; ray.init(log_to_driver=False); print(len(ray.nodes()), 'nodes', flush=True)"
FLAGS = {
    **ONE_STUDENT,
    "--workers-per-trial": "2",
    "--study.space": space({"pool.size": [2]}),
    "--study.max_failures": "2",
    "--max-concurrent": "1",
    "--storage.checkpoint_seconds": "2",
}
LONG = {**FLAGS, "--matching.epochs": "30", "--study.grace_epochs": "30"}

pytestmark = [
    pytest.mark.multihost,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing_slurm()), reason=missing_slurm()),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm
        assert slurm.in_homes() == []


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        ((), (), "no command given"),
        (("--chdir=/tmp",), ("true",), "/tmp isn't the top folder of the checkout"),
        (
            ("--chdir={bare}",),
            ("true",),
            "bare/.venv isn't there; make it where packages can be downloaded: make .venv",
        ),
        (("--nodes=2", "--gpus=3"), ("true",), "use --gpus-per-node"),
    ],
)
def test_job_that_cannot_run_says_why(
    slurm: Slurm, options: tuple[str, ...], words: tuple[str, ...], message: str
) -> None:
    bare = slurm.folder / "bare"
    if not bare.exists():
        (bare / "cluster").mkdir(parents=True)
        (bare / "cluster" / "slurm_node.sh").touch()
    job = slurm.submit(*(option.format(bare=bare) for option in options), "cluster/slurm.sh", *words)
    assert slurm.end(job, JOB_SECONDS) == "FAILED 2:0"
    assert slurm.output(job).startswith("error: ")
    assert message in slurm.output(job)
    assert slurm.output(job).count("\n") == 1


def test_jobs_of_two_users_share_machines_and_each_ends_by_itself(slurm: Slurm) -> None:
    options = (*SHARE, "--nodes=2", "--nodelist=node1,node2", "--gpus-per-node=1", "cluster/slurm.sh")
    look = f"{NODES}; print(*map(ray.cluster_resources().get, ('GPU', 'CPU')), flush=True); "
    stays = slurm.submit(*options, "python", "-c", f"{look}import time; time.sleep(600)", user="ada")
    slurm.wait(lambda: "2 nodes\n2.0 2.0\n" in slurm.output(stays), JOB_SECONDS, stays)
    ends = slurm.submit(*options, "python", "-c", f"{look}raise SystemExit(3)", user="ben")
    assert slurm.end(ends, JOB_SECONDS) == "FAILED 3:0", slurm.output(ends)
    assert "2 nodes\n2.0 2.0\n" in slurm.output(ends)
    assert "slurm" not in slurm.output(ends)  # no complaint of Slurm's
    assert slurm.fields(stays)["JobState"] == "RUNNING"
    cancelled_at = time.monotonic()
    slurm.run("scancel", str(stays), user="ada")
    assert slurm.end(stays, JOB_SECONDS).startswith("CANCELLED ")
    slurm.wait(lambda: not slurm.left())
    print(f"scancel: {time.monotonic() - cancelled_at:.0f} s")


def test_study_trains_on_several_machines_and_nothing_is_left_of_it(slurm: Slurm) -> None:
    seen = set()

    def look() -> bool:
        seen.update(node.name for node in slurm.nodes if node.processes("ray::RayTrainWorker"))
        return False

    _, seconds = study(slurm, "plain", 3, FLAGS, look)
    print(f"sbatch to the study's end: {seconds:.0f} s, workers on {sorted(seen)}")
    assert len(seen) >= 2
    assert slurm.left() == {}


def test_study_ends_without_the_machine_that_is_cut_off(slurm: Slurm) -> None:
    cut: list[Host] = []

    def cut_a_worker() -> bool:
        cut.extend(node for node in slurm.nodes[1:] if node.processes("ray::RayTrainWorker"))
        if cut:
            slurm.network.cut_off(cut[0])
        return bool(cut)

    job, seconds = study(slurm, "worker", 3, LONG, cut_a_worker)
    slurm.network.reconnect(cut[0])
    again_at = time.monotonic()
    slurm.wait(lambda: not slurm.left(), LEAVE_SECONDS)
    print(f"with a worker cut: {seconds:.0f} s; clean {time.monotonic() - again_at:.0f} s after it was back")
    slurm.wait(slurm.is_idle)
    assert slurm.fields(job)["JobState"] == "COMPLETED"  # the cut machine didn't take the job's end for a lost head


def test_study_continues_on_the_others_after_its_first_machine_is_lost(slurm: Slurm) -> None:
    def lose_the_head() -> bool:
        slurm.network.power_off(slurm.nodes.pop(0))
        return True

    _, seconds = study(slurm, "head", 2, LONG, lose_the_head)
    print(f"with the head lost: {seconds:.0f} s")
    slurm.wait(lambda: not slurm.left())


def study(
    slurm: Slurm, name: str, num_nodes: int, flags: dict[str, str], harm: Callable[[], bool]
) -> tuple[int, float]:
    """Run a study of two trials with two workers each; return the job's number and what it took, in seconds.

    Args:
        slurm: Where it runs.
        name: Of its storage.
        num_nodes: That the job asks for.
        flags: Beside or instead of those of tests.helpers.runs.
        harm: Called again and again from the first trial's checkpoint on, until it returns True or the study ends.
    """
    storage = slurm.folder / name
    submitted_at = time.monotonic()
    command = ("python", "-m", "dim_ray.tune", *arguments(storage, flags))
    job = slurm.submit(*SHARE, f"--nodes={num_nodes}", "cluster/slurm.sh", *command)

    def is_harmed() -> bool:
        begun = any("Trial 0 began" in log.read_text() for log in storage.glob("studies/*/study.log"))
        kept = list(storage.glob("studies/*/checkpoints/[!.]*"))
        return bool(begun and kept and harm()) or slurm.has_ended(job)

    slurm.wait(is_harmed, STUDY_SECONDS, job)
    assert slurm.end(job, STUDY_SECONDS) == "COMPLETED 0:0", slurm.output(job)
    seconds = time.monotonic() - submitted_at
    assert seconds < STUDY_SECONDS, slurm.output(job)
    assert trials(storage)["state"].tolist() == ["completed"] * 2
    assert len(evaluations(storage)) == evaluations(storage)["id"].nunique() == 1
    return job, seconds
