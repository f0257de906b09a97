"""Studies of several data sets in one command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray

from dim_ray import tune
from dim_ray.cli.main import run_main
from tests.helpers.logs import closed_logs as closed_logs
from tests.helpers.runs import ONE_STUDENT, arguments, evaluations, run, trials
from tests.helpers.written_images import pixels, write_folder

pytestmark = pytest.mark.timeout(1500)  # several runs, on a machine that may be busy


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder data set of two classes, bright on the left and on the right, in noise."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (2, 120, 1, 8, 8), dtype=np.uint8)
    images[0, ..., :4] += 100
    images[1, ..., 4:] += 100
    return write_folder(tmp_path / "shapes", {"left": images[0], "right": images[1]})


def test_the_same_data_twice_are_refused(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    copy = shutil.copytree(shapes, tmp_path / "copy/shapes")
    assert run_main(tune.main, arguments(tmp_path / "storage", {"--dataset": f"folder:{shapes} folder:{copy}"})) == 2
    assert f"--dataset has folder:{shapes} and folder:{copy}, which are the same data." in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_data_sets_of_one_name_are_planned_as_two_studies_and_take_no_name(tmp_path: Path, shapes: Path) -> None:
    other = write_folder(tmp_path / "other/shapes", {name: pixels(120, seed=ord(name)) for name in "ab"})
    planned = run(tmp_path / "storage", {"--dataset": f"folder:{shapes} folder:{other}", "--dry-run": ""})
    assert planned.returncode == 0, planned.stderr
    assert len(set(re.findall(r"^study (shapes-\w+):", planned.stdout, re.MULTILINE))) == 2
    assert not (tmp_path / "storage/datasets").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_each_data_set_has_its_study_and_one_table_has_them_all(tmp_path: Path, shapes: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**ONE_STUDENT, "--num-trials": "1", "--dataset": f"digits folder:{shapes}", "--study": "both"}
    both = run(storage, flags)
    assert both.returncode == 0, f"{both.stderr}\n{both.log()}"
    assert set(trials(storage)["study"]) == {"both-digits", "both-shapes"}
    assert set(evaluations(storage)["dataset"]) == {"digits", "shapes"}
    assert re.findall(r"^study (both-\w+): 1 completed", both.stdout, re.MULTILINE) == ["both-digits", "both-shapes"]
    assert re.findall(r"^ ?(digits|shapes) +1 +convnet3_w8", both.stdout, re.MULTILINE) == ["digits", "shapes"]
    assert both.stdout.count("next:") == 1
    assert both.stderr.count("Ray: started") == 1  # one for all
    assert "shapes: trials: finished" in both.stderr
    assert both.leftovers() == {}

    again = run(storage, flags)
    assert again.stdout.count("is finished; nothing was added") == 2
    assert "Ray" not in again.stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_data_sets_of_one_name_have_names_and_studies_of_their_own(tmp_path: Path, shapes: Path) -> None:
    storage = tmp_path / "storage"
    other = write_folder(tmp_path / "other/shapes", {name: pixels(120, seed=ord(name)) for name in "ab"})
    flags = {**ONE_STUDENT, "--num-trials": "1", "--dataset": f"folder:{shapes} folder:{other}", "--study": "数据"}
    both = run(storage, flags)
    assert both.returncode == 0, f"{both.stderr}\n{both.log()}"
    first, second = sorted(set(evaluations(storage)["dataset"]))
    assert first == "shapes"
    assert re.fullmatch("shapes-[0-9a-f]{8}", second)
    assert f"shapes is the name of other data in {storage} (folder:{shapes}); these are {second}" in both.stderr
    assert set(trials(storage)["study"]) == {f"数据-{first}", f"数据-{second}"}
    again = run(storage, flags)
    assert again.stdout.count("is finished; nothing was added") == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_that_fails_leaves_the_others_to_run(tmp_path: Path, shapes: Path) -> None:
    storage = tmp_path / "storage"
    flags = {**ONE_STUDENT, "--num-trials": "1"}
    alone = run(storage, {**flags, "--dataset": "digits", "--study": "both-digits"})
    assert alone.returncode == 0, f"{alone.stderr}\n{alone.log()}"
    [weights] = (storage / "generators").glob("*/generator.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    shutil.rmtree(storage / "evaluations")  # so that it's needed

    both = run(storage, {**flags, "--dataset": f"digits folder:{shapes}", "--study": "both"})
    assert both.returncode == 1
    *_, last = both.stderr.splitlines()
    assert last.startswith("error: 1 of 2 studies failed: digits: ")
    assert str(weights.parent) in last
    assert "Traceback" not in both.stderr
    assert set(evaluations(storage)["dataset"]) == {"shapes"}
    assert re.search(r"^study both-shapes: 1 completed", both.stdout, re.MULTILINE)
