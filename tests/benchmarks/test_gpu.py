"""The command for GPUs runs on a CPU, and what fails there would be seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from benchmarks import gpu
from benchmarks.gpu import Bench, Result
from dim_ray.core.training.loop import Losses, Stage
from dim_ray.core.training.ports import Collective
from dim_ray.errors import DimError

CPU = torch.device("cpu")
NO_RAY = "import sys; sys.modules['ray'] = None; from benchmarks.__main__ import main; main(sys.argv[1:])"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NO_RAY, "gpu", "--dataset", "digits", "--out", str(folder), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=environment)


def test_without_ray_every_line_is_kept_before_the_next_whenever_the_run_is_killed(tmp_path: Path) -> None:
    run = start(tmp_path)
    assert run.stdout is not None
    lines = [run.stdout.readline() for _ in range(4)]  # the first one says where
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("gpu-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    run.kill()
    run.wait()
    rows = pd.read_parquet(tmp_path)
    assert len(rows) >= 3
    assert rows["is_well"].all()
    for name, line in zip(rows["line"], lines[1:], strict=False):
        assert line.startswith(name)
        assert " ok " in line


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_line_is_well_on_a_cpu(tmp_path: Path) -> None:
    run = start(tmp_path, "--minutes", "1")  # as many epochs as fit
    out, _ = run.communicate()
    assert run.returncode == 0, out
    rows = pd.read_parquet(tmp_path).set_index("line")
    assert rows["is_well"].all()
    timed = rows[rows["unit"] == "images/s"]["value"]
    assert len(timed) == 17
    assert (timed > 0).all()
    assert "its students" in rows.loc["recipe: matching", "note"]


def fail() -> Result:
    raise RuntimeError("called a synchronizing CUDA operation\nmore")


def test_a_line_that_fails_is_told_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "checks", lambda bench: iter([("broken", fail)]))
    monkeypatch.setattr(Bench, "speeds", lambda bench: iter([("slow", lambda: Result(value=5.0, unit="images/s"))]))
    monkeypatch.setattr(gpu, "_recipe", lambda *given: iter([]))
    with pytest.raises(DimError, match=r"^1 lines failed: broken\.$"):
        gpu.main(["--out", str(tmp_path)])
    rows = pd.read_parquet(tmp_path).set_index("line")
    assert list(rows["is_well"]) == [False, True]
    assert rows.loc["broken", "note"].startswith("RuntimeError: called a synchronizing CUDA operation")
    assert "FAILED" in capsys.readouterr().out


def test_nothing_begins_when_the_minutes_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "checks", lambda bench: iter([("first", fail)]))
    gpu.main(["--out", str(tmp_path), "--minutes", "1e-9"])
    assert "--minutes 1e-09 are over before 'first'" in capsys.readouterr().out


class Forgetful(Stage):
    seeds = (0,)

    def __init__(self) -> None:
        self._sum = torch.zeros(1)

    def step(self, number: int, indices: Tensor) -> Losses:
        self._sum += number
        return {}

    def state(self) -> Mapping[str, Tensor]:
        return {"sum": self._sum}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        pass


def test_a_stage_that_resumes_with_other_bits_is_found() -> None:
    def make(workers: Collective) -> Stage:
        return Forgetful()

    result = Bench(CPU, is_tiny=True)._check_resume(make)
    assert not result.is_well
    assert result.note == "other bits: the largest difference is 1"


@pytest.mark.gpu
def test_everything_holds_on_a_gpu() -> None:
    results = {name: gpu._taken(take) for name, take in Bench(torch.device("cuda"), is_tiny=True).checks()}
    assert {name: result.note for name, result in results.items() if not result.is_well} == {}
