"""The benchmarks run, and their numbers are what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.measure import Case, measure
from benchmarks.training import TRAINING, Setting
from dim_ray.cli.main import run_main

CPU = torch.device("cpu")


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def test_cases_take_turns_and_are_counted() -> None:
    calls: list[str] = []
    matrix = torch.ones(10, 20)

    def product() -> torch.Tensor:
        calls.append("a")
        return matrix @ matrix.T

    cases = [
        Case(benchmark="x", variant="a", call=product, items=10),
        Case(benchmark="x", variant="b", call=lambda: calls.append("b"), items=1, has_arithmetic=False),
    ]
    first, second = measure(cases, repeats=3, device=CPU)
    assert "".join(calls) == "ab" + 3 * "ab", "one call to warm up, and then in turns"
    assert (first.macs, second.macs) == (10 * 20 * 10, 0)
    assert len(first.seconds) == len(second.seconds) == 3
    low, high = first.quartiles
    assert 0 < low <= first.median <= high
    assert first.items_per_second == pytest.approx(10 / first.median)


def test_an_ensemble_has_the_arithmetic_of_its_members() -> None:
    cases = TRAINING["student"](Setting(device=CPU, architectures=("convnet2_w4",)))
    measured = measure(cases, repeats=1, device=CPU)
    assert any("ensemble of 5" in case.variant for case in cases)
    assert len({measurement.macs / measurement.case.items for measurement in measured}) == 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)  # a machine that is busy with other things
def test_every_benchmark_runs_and_keeps_its_rows(tmp_path: Path) -> None:
    names = [name for name in benchmark("--list").stdout.split() if not name.startswith("ray-")]  # those take minutes
    assert {"adversarial", "matching", "student", "store"} <= set(names)
    run = benchmark(
        *names, "--repeats", "1", "--capacity", "4", "--architecture", "convnet1_w4", "--evaluations", "4000",
        "--out", str(tmp_path / "rows"),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = pd.read_parquet(tmp_path / "rows")
    assert set(rows["group"]) == set(names)
    assert (rows["n"] == 1).all()
    assert (rows["median_seconds"] > 0).all()
    # Other processes' arithmetic isn't counted.
    steps = rows[rows["benchmark"].str.contains("step") & (rows["group"] != "workers")]
    assert (steps["gmac_per_item"] > 0).all()
    assert (steps["share_of_matrix_rate"] > 0).all()
    assert "of matrix rate" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["studnet"], "there is no benchmark 'studnet'; did you mean 'student'"),
        (["--evaluations", "0"], "--evaluations is 0; allowed: 1 or more."),
        (["--repeats", "0"], "--repeats is 0; allowed: 1 or more."),
        (["--minutes", "0"], "--minutes is 0.0; allowed: above 0."),
        (["--student-batch", "0"], "--student-batch is 0; allowed: 1 or more."),
        (["--image-size", "1"], "--image-size is 1; allowed: "),
        (["--architecture", "convnet"], "'convnet'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(main, arguments) == 2
    assert message in capsys.readouterr().err
