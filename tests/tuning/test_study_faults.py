"""Studies whose processes are harmed, with one worker and with several."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ray_nodes import command_environment, ray_process
from tests.helpers.runs import LONG, ONE_STUDENT, Run, evaluations, files, run, space, trials, validations

pytestmark = pytest.mark.timeout(1500)  # several runs, on a machine that may be busy

Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts runs, and ends those that a failed test leaves."""
    runs: list[Run] = []

    def begin(*arguments: Any, **options: Any) -> Run:
        runs.append(Run(*arguments, **options))
        return runs[-1]

    yield begin
    for begun in runs:
        begun.clear()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_whose_driver_is_killed_goes_on_where_it_was(start: Start, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**LONG, "--num-trials": "3", "--max-concurrent": "1"}
    killed = start(storage, flags)
    killed.wait_for(lambda: list(storage.glob("trials/*/*.parquet")), "a trial's row")
    killed.wait_for_state(trial=1)
    killed.kill()
    before = files(storage)
    [first] = trials(storage).to_dict("records")
    began = re.findall(r"Trial (\d) began: (.*)", killed.log())
    assert (first["number"], len(began)) == (0, 2)

    resumed = run(storage, flags)
    assert resumed.returncode == 0, f"{resumed.stderr}\n{resumed.log()}"
    rows = trials(storage)
    assert rows["number"].tolist() == [0, 1, 2]
    assert rows["state"].tolist() == ["completed"] * 3
    after = files(storage)
    assert {name: after[name] for name in before} == before  # no finished trial was run again, nothing built twice
    ran = re.findall(r"Trial (\d) began: (.*)", resumed.log())[2:]
    assert ran[0] == began[1]  # number and parameters of the interrupted one
    assert [number for number, _ in ran] == ["1", "2"]
    assert len(evaluations(storage)) == 1
    assert not list(storage.glob("studies/*/checkpoints/*"))
    assert resumed.leftovers() == {}
    assert killed.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_whose_driver_is_killed_among_the_contenders_runs_none_of_their_students_twice(
    start: Start, tmp_path: Path
) -> None:
    storage, num_seeds = tmp_path / "storage", 40
    flags = {
        **ONE_STUDENT,
        "--study.grace_epochs": "2",  # as many as there are: both trials complete
        "--study.contenders": "2",
        "--study.contender_seeds": str(num_seeds),
        "--evaluation.students_at_once": "1",
        "--evaluation.epochs": "20",
    }
    killed = start(storage, flags)
    killed.wait_for(lambda: list(storage.glob("validations/*/*/[!.]*")), "a contender's student")
    killed.kill()
    before = files(storage)
    assert 0 < len(validations(storage)) < 2 * num_seeds
    assert evaluations(storage).empty

    resumed = run(storage, flags)
    assert resumed.returncode == 0, f"{resumed.stderr}\n{resumed.log()}"
    after = files(storage)
    assert {name: after[name] for name in before} == before  # no row was written again
    rows = validations(storage)
    assert rows.groupby("generator")["seed"].nunique().tolist() == [num_seeds] * 2
    assert len(rows) == 2 * num_seeds
    winner = rows.groupby("generator")["accuracy"].mean().idxmax()
    assert evaluations(storage)["generator"].tolist() == [winner]
    assert re.search(
        rf"(?m)^best: trial \d.* validation accuracy [\d.]+ ± [\d.]+ % \(n = {num_seeds}\), ", resumed.stdout
    )
    assert re.search(r"(?m)^cost: .* for trials, \d+ for contenders and control; ", resumed.stdout)

    again = run(storage, flags)
    assert "is finished; nothing was added" in again.stdout
    assert files(storage) == after
    assert again.log().count("Started a local Ray instance") == 2
    assert resumed.leftovers() == killed.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_survives_the_death_of_a_trials_process(start: Start, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    study = start(storage, {**LONG, "--max-concurrent": "1"})
    study.wait_for_state()
    study.kill_process("ImplicitFunc")
    study.end()
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    assert trials(storage)["state"].tolist() == ["completed"] * 2
    assert study.log().count("Trial 0 began") == 2
    assert "(raylet)" in study.log()  # Ray complains, but not on the terminal
    assert "(raylet)" not in study.stdout + study.stderr
    assert study.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_trial_whose_process_dies_too_often_fails_and_the_study_goes_on(start: Start, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**LONG, "--max-concurrent": "1", "--study.max_failures": "0"}
    study = start(storage, flags)
    study.wait_for_state()
    study.kill_process("ImplicitFunc")
    study.end()
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    failed, completed = trials(storage).to_dict("records")
    assert (failed["state"], completed["state"]) == ("failed", "completed")
    assert "died" in failed["error"]
    assert "1 failed" in study.stdout
    assert study.stderr.count("trial 0 failed: ") == 1

    again = run(storage, flags)  # what failed is tried again, and nothing else
    assert again.returncode == 0, f"{again.stderr}\n{again.log()}"
    tried, kept = trials(storage).to_dict("records")
    assert (tried["state"], tried["params_json"]) == ("completed", failed["params_json"])
    assert kept["ended_at"] == completed["ended_at"]
    assert again.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
def test_journal_that_is_taken_away_ends_the_study_with_a_sentence(start: Start, tmp_path: Path) -> None:
    """Tune wraps what a searcher raises in a traceback of its own."""
    storage = tmp_path / "storage"
    flags = {**LONG, "--study.grace_epochs": "7", "--num-trials": "1"}
    study = start(storage, flags)
    study.wait_for_state()
    [journal] = storage.glob("studies/*/optuna.journal")
    journal.rename(journal.with_name("mine"))
    journal.mkdir()
    study.end()
    assert study.returncode == 1
    _, _, *progress, last = study.stderr.splitlines()  # after recipe and data
    assert re.match(r"error: .*optuna\.journal", last)
    assert all(line.startswith("[") for line in progress), study.stderr
    journal.rmdir()
    journal.with_name("mine").rename(journal)

    again = run(storage, flags)
    assert again.returncode == 0, f"{again.stderr}\n{again.log()}"
    assert len(trials(storage)) == 1
    assert study.leftovers() == again.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_interrupt_ends_the_study_with_a_sentence(
    start: Start, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    study = start(tmp_path / "storage", LONG)
    study.wait_for(lambda: "Trial 0 began" in study.log(), "the first trial")
    os.kill(study.pid, number)
    study.end()
    assert study.returncode == exit_code
    _, _, *progress, last = study.stderr.splitlines()  # after recipe and data
    assert last == "interrupted; run the same command again to continue"
    assert all(line.startswith("[") for line in progress), study.stderr
    assert study.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param("prior", marks=pytest.mark.long), "matching"])
def test_study_of_which_every_trial_diverges_ends_with_a_sentence(tmp_path: Path, stage: str) -> None:
    storage = tmp_path / "storage"
    study = run(storage, {f"--{stage}.learning_rate": "1e30"})
    assert study.returncode == 1
    *_, last = study.stderr.splitlines()
    assert re.match(rf"error: study 'digits-.*' has no completed trial \(2 diverged\).*{stage} diverged by step", last)
    assert study.stderr.count(f"a trial diverged: {stage} diverged by step") == 2
    assert "Traceback" not in study.stderr
    assert study.stdout == ""
    rows = trials(storage)
    assert rows["state"].tolist() == ["diverged"] * 2
    assert rows["objective"].tolist() == [0.0, 0.0]
    assert evaluations(storage).empty

    again = run(storage, {f"--{stage}.learning_rate": "1e30"})
    assert again.returncode == 1
    assert again.stderr.splitlines()[2:] == [last]  # after recipe and data


@pytest.fixture
def another_ray() -> Iterator[str]:
    """Another Ray of two cores on this machine, as somebody else's study starts one: its address."""
    code = (
        "import ray, sys; ray.init(address='local', num_cpus=2, include_dashboard=False); "
        "print('at', ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    with ray_process(code) as address:
        yield address


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("another_ray")
def test_two_workers_share_every_stage(tmp_path: Path) -> None:
    """What the workers of a trial held is free for the next and for the evaluations, whoever else runs Ray."""
    storage = tmp_path / "storage"
    flags = {**ONE_STUDENT, "--workers-per-trial": "2", "--study.space": space({"pool.size": [2]})}
    study = run(storage, flags)
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    rows = trials(storage)
    assert rows["number"].tolist() == [0, 1]
    assert set(rows["state"]) <= {"completed", "stopped"}
    assert rows["device_seconds"].tolist() == (2 * rows["wall_seconds"]).tolist()
    assert len(evaluations(storage)) == 1
    assert all(line.startswith("[") for line in study.stderr.splitlines()[2:]), study.stderr  # after recipe and data
    assert study.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_trial_of_all_cores_runs_on_a_cluster_that_is_joined(start: Start, another_ray: str, tmp_path: Path) -> None:
    """A trial that waits for its workers takes no core from them."""
    storage = tmp_path / "storage"
    flags = {**ONE_STUDENT, "--workers-per-trial": "2", "--num-trials": "1", "--matching.kind": "none"}
    study = start(storage, flags, address=another_ray)
    study.end()
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    assert trials(storage)["state"].tolist() == ["completed"]
    assert len(evaluations(storage)) == 1
    assert all(line.startswith("[") for line in study.stderr.splitlines()[2:]), study.stderr  # after recipe and data
    assert study.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_two_workers_survive_the_death_of_one_of_them(start: Start, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**LONG, "--workers-per-trial": "2", "--num-trials": "1", "--study.space": space({"pool.size": [2]})}
    study = start(storage, flags)
    study.wait_for_state()
    study.kill_process("RayTrainWorker", num_alike=2)
    study.end()
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    assert trials(storage)["state"].tolist() == ["completed"]
    assert all(line.startswith("[") for line in study.stderr.splitlines()[2:]), study.stderr  # after recipe and data
    assert study.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_workers_of_stopped_trials_leave_no_placement_groups(start: Start, tmp_path: Path) -> None:
    """Those of Ray Train outlive a trial that Ray Tune stops (Ray's issue 54305), but for Ray's cleaner.

    If this fails with a newer Ray, stopped trials keep their workers' cores: choose `study.scheduler none` for studies
    of several workers per trial, until Ray is mended.
    """
    count = (
        "import ray, sys, time; ray.init(address=sys.argv[1], log_to_driver=False)\n"
        "while True: print(sum(group['state'] == 'CREATED' for group in ray.util.placement_group_table().values()), "
        "flush=True); time.sleep(1)"
    )
    with_dashboard = (
        "import ray, sys; ray.init(address='local', num_cpus=2, include_dashboard=True); "
        "print('at', ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    flags = {
        **ONE_STUDENT, "--workers-per-trial": "2", "--num-trials": "4", "--matching.epochs": "4", "--prior.epochs": "4",
        "--evaluation.epochs": "20", "--evaluation.min_steps": "60", "--evaluation.weights": "raw",
        "--study.scheduler": "asha",
        "--study.space": space({"pool.size": [2]}),
    }  # fmt: skip
    storage = tmp_path / "storage"
    with ray_process(with_dashboard) as address:
        watch = subprocess.Popen(
            [sys.executable, "-c", count, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=command_environment(address),
        )
        try:
            study = start(storage, flags, address=address)
            study.end()
            time.sleep(5)
        finally:
            watch.terminate()
        counts = [int(line) for line in watch.communicate()[0].split()]
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    assert "stopped" in trials(storage)["state"].tolist()
    assert max(counts) in (1, 2)  # one trial at a time, and one that ends
    assert counts[-1] == 0


@pytest.mark.ray
@pytest.mark.slow
def test_error_in_one_of_two_workers_reaches_the_terminal_as_one_line(tmp_path: Path) -> None:
    flags = {"--workers-per-trial": "2", "--pool.learning_rate": "1e30", "--study.max_failures": "0"}
    study = run(tmp_path / "storage", flags)
    assert study.returncode == 1
    errors = [line for line in study.stderr.splitlines() if not line.startswith(("[", "recipe ", "digits: "))]
    assert len(errors) == 1, study.stderr
    assert errors[0].startswith("error: teacher diverged by step")
    assert study.leftovers() == {}
