"""The main job as a person runs it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import ray
from PIL import Image

import dim_ray
from dim_ray import tune
from dim_ray.cli.main import run_main
from dim_ray.config import EvaluationConfig
from tests.helpers.logs import closed_logs as closed_logs
from tests.helpers.runs import LONG, ONE_STUDENT, Run, arguments, evaluations, files, run, space, trials, validations

pytestmark = pytest.mark.timeout(1500)  # several runs, on a machine that may be busy

CONTROL = {"--study.control": "true"}
CELLS = 4 * 2 * 2  # protocols x IPCs x seeds


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study of two trials that ended; its storage is not to be changed."""
    study = run(tmp_path_factory.mktemp("study") / "storage", CONTROL)
    assert study.returncode == 0, f"{study.stdout}\n{study.stderr}\n{study.log()}"
    return study


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Path:
    """A copy of its storage."""
    return Path(shutil.copytree(finished.storage, tmp_path / "storage"))


@pytest.mark.ray
def test_study_leaves_rows_of_every_trial_and_of_the_whole_grid(finished: Run) -> None:
    rows = trials(finished.storage)
    assert rows["number"].tolist() == [0, 1]
    assert set(rows["state"]) <= {"completed", "stopped"}
    contended = validations(finished.storage)
    contended = contended[contended["generator"].isin(rows["generator"])]
    if (rows["state"] == "completed").all():
        assert contended.groupby("generator")["seed"].nunique().tolist() == [2, 2]
        means = contended.groupby("generator")["accuracy"].mean()
        best = set(means[means == means.max()].index)
    else:
        assert contended.empty
        best = set(rows["generator"].dropna())
    grid = evaluations(finished.storage)
    cells = set(zip(grid["protocol"], grid["ipc"], grid["seed"], strict=True))
    assert len(grid) == len(cells) == CELLS
    assert set(grid["protocol"]) == set(EvaluationConfig().protocols)
    assert set(grid["split"]) == {"test"}
    [chosen] = set(grid["generator"].dropna())
    assert chosen in best


@pytest.mark.ray
def test_study_compares_its_best_generator_with_its_control(finished: Run) -> None:
    rows = validations(finished.storage)
    [control] = set(rows["generator"]) - set(trials(finished.storage)["generator"])
    assert rows[rows["generator"] == control]["seed"].nunique() == 2
    assert control not in set(evaluations(finished.storage)["generator"])  # the test split is for what was chosen
    [line] = [line for line in finished.stdout.splitlines() if "without matching" in line]
    assert re.search(r"matching .* points of validation accuracy at IPC 2, n = 2 pairs of students; the control", line)


@pytest.mark.ray
def test_study_prints_its_own_lines_alone(finished: Run) -> None:
    times = r"\[([\d.]+ s|\d+ min \d+ s)\]"
    recipe, data, *stages = finished.stderr.splitlines()
    assert recipe.startswith("recipe digits for digits, ")
    assert data.startswith("digits: 10 classes")
    for line in stages:
        assert re.match(rf"{times} (Ray|teachers and priors|trials|contenders|evaluation): ", line), line
    lines = finished.stdout.splitlines()
    assert re.fullmatch(r"study digits-[0-9a-f]{8}: .*completed; this run took .*", lines[0])
    assert lines[1].startswith("best: trial ")
    known = (
        "cost: ",
        "curves: ",
        "test accuracy",
        "digits: it isn't certain that matching",
        "digits: matching ",
        " IPC",
        " ──",
        "rows ",
        "generator ",
        "picture ",
        "log ",
        "next:",
        "  python ",
    )
    for line in lines[2:]:
        assert not line.strip() or line.startswith(known) or "generated" in line or "convnet3_w8" in line, line


@pytest.mark.ray
def test_picture_and_generator_are_where_the_summary_says(finished: Run) -> None:
    places = dict(re.findall(r"^(generator|picture|log) +(/.*)$", finished.stdout, re.MULTILINE))
    with Image.open(places["picture"]) as picture:
        assert picture.format == "PNG"
    generator = dim_ray.best_generator(str(finished.storage), dataset="digits", ipc=2)
    assert generator.uri == places["generator"]
    assert Path(places["log"]).is_file()


@pytest.mark.ray
def test_driver_takes_all_of_ray_with_it(finished: Run) -> None:
    assert finished.leftovers() == {}


@pytest.mark.ray
def test_finished_study_says_so_and_adds_nothing(copied: Path) -> None:
    before = files(copied)
    again = run(copied, CONTROL)
    assert again.returncode == 0, again.stderr
    assert "is finished; nothing was added" in again.stdout
    assert "Extend it with --num-trials above 2" in again.stdout
    assert files(copied) == before
    assert [line.split()[0] for line in again.stderr.splitlines()] == ["recipe", "digits:"]
    assert again.log().count("Started a local Ray instance") == 1  # by the first run


def test_trial_that_can_never_be_placed_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    assert run_main(tune.main, arguments(tmp_path / "storage", {"--study.cpus_per_worker": "1000"})) == 2
    output = capsys.readouterr()
    *_, error = output.err.splitlines()
    assert error.startswith("error: a trial can never be placed: 1 worker x 1,000 CPUs ")
    assert output.out == ""


@pytest.mark.ray
@pytest.mark.slow
def test_larger_number_of_trials_extends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is ASCII, unlike the name of its storage."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    storage = tmp_path / "données"
    flags = {**ONE_STUDENT, "--evaluation.num_seeds": "2"}
    study = run(storage, {**flags, "--num-trials": "1"})
    assert study.returncode == 0, study.stderr
    assert "mean +- std of n = 2 seeds" in study.stdout
    assert "donn\\xe9es" in study.stdout
    before = files(storage)
    longer = run(storage, {**flags, "--num-trials": "2"})
    assert longer.returncode == 0, longer.stderr
    assert trials(storage)["number"].tolist() == [0, 1]
    after = files(storage)
    assert {name: after[name] for name in before} == before
    assert "teachers" not in longer.stderr  # they were there
    assert trials(storage)["params_json"].nunique() == 2


@pytest.mark.ray
@pytest.mark.slow
def test_trials_that_are_the_same_are_run_once(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**ONE_STUDENT, "--generator.capacity": "4", "--study.space": '{"pool.size":[1]}'}
    study = run(storage, {**flags, "--num-trials": "4"})
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    first, *others = trials(storage).to_dict("records")
    assert first["device_seconds"] > 0
    assert [(row["reused_trial"], row["device_seconds"]) for row in others] == [(0, 0.0)] * 3
    assert [row["objective"] for row in others] == [first["objective"]] * 3
    assert study.log().count(" began: ") == 1

    longer = run(storage, {**flags, "--num-trials": "5"})  # there is nothing for Tune to run
    assert longer.returncode == 0, f"{longer.stderr}\n{longer.log()}"
    assert len(trials(storage)) == 5
    assert longer.leftovers() == {}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_searches_any_field_under_conditions_and_within_a_size(tmp_path: Path) -> None:
    searched = {
        "pool.size": [1],
        "generator.capacity": [4, 64],
        "matching.kind": ["logits", "features"],
        "matching.temperature": {"values": [2.0], "when": {"matching.kind": ["logits"]}},
        "pool.num_snapshots": [1, 2],
    }
    flags = {
        **ONE_STUDENT,
        "--num-trials": "6",
        "--study.sampler": "random",
        "--study.space": space(searched),
        "--study.max_generator_bytes": "200000",
    }
    storage = tmp_path / "storage"
    study = run(storage, flags)
    assert study.returncode == 0, f"{study.stderr}\n{study.log()}"
    rows = trials(storage)
    assert rows["number"].tolist() == list(range(6))
    assert set(rows["capacity"]) == {4}
    chosen = [json.loads(text) for text in rows["params_json"]]
    assert {own["matching.kind"] for own in chosen} == {"logits", "features"}
    assert all(("matching.temperature" in own) == (own["matching.kind"] == "logits") for own in chosen)
    for own, text in zip(chosen, rows["config_json"], strict=True):
        config = json.loads(text)
        assert config["matching"]["kind"] == own["matching.kind"]
        assert config["matching"]["temperature"] == own.get("matching.temperature", 1.0)
        assert config["pool"]["num_snapshots"] == own["pool.num_snapshots"]
    assert len(list((storage / "teachers").iterdir())) == 2
    assert len(list((storage / "priors").iterdir())) == 1
    assert "larger than study.max_generator_bytes, 200,000, and left out" in study.stderr
    assert re.search(r"best: trial .*, matching\.kind (logits|features).*, pool\.num_snapshots [12].*; ", study.stdout)

    longer = run(storage, {**flags, "--num-trials": "7"})
    assert longer.returncode == 0, f"{longer.stderr}\n{longer.log()}"
    assert len(trials(storage)) == 7
    assert trials(storage)["ended_at"].tolist()[:6] == rows["ended_at"].tolist()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_whose_time_is_over_ends_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**LONG, "--max-concurrent": "1", "--study.grace_epochs": "2"}
    short = run(storage, {**flags, "--num-trials": "60", "--time-budget": "40s"})
    assert short.returncode == 0, f"{short.stderr}\n{short.log()}"
    assert "the time budget of 40s is over with " in short.stdout
    assert evaluations(storage).empty  # the best trial may be to come
    before = trials(storage)
    assert len(before) < 60
    began = re.findall(r"Trial (\d+) began: (.*)", short.log())
    assert short.leftovers() == {}

    resumed = run(storage, {**flags, "--num-trials": str(len(before) + 1)})
    assert resumed.returncode == 0, f"{resumed.stderr}\n{resumed.log()}"
    after = trials(storage)
    assert after["number"].tolist() == list(range(len(before) + 1))
    assert after["ended_at"].tolist()[: len(before)] == before["ended_at"].tolist()
    if len(began) > len(before):  # one was cut
        assert re.findall(r"Trial (\d+) began: (.*)", resumed.log())[len(began)] == began[-1]
    assert len(evaluations(storage)) == 1
