from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import teachers
from tests.helpers.small import build_networks, distil, make_work


def test_each_number_of_teachers_has_a_line_with_its_gains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(tmp_path)
    build_networks(work)
    generator = distil(work)
    seen: list[tuple[str, int, int]] = []
    measure = teachers.accuracies

    def recorded(*args: Any) -> tuple[list[float], float]:
        recipe, names = args[2:4]
        seen.append((recipe.labels, recipe.epochs, len(names)))
        return measure(*args)

    monkeypatch.setattr(teachers, "make_config", lambda _: work.config)
    monkeypatch.setattr(teachers, "stored_data", lambda *_, **__: work.dataset)
    monkeypatch.setattr(teachers, "accuracies", recorded)
    folder = str(tmp_path / "generators" / generator)
    small = ["--students", "2", "--epochs", "2", "--control-epochs", "3", "--ipc", "4"]
    teachers.main([folder, "--labels", "soft", "--teachers", "1", "2", *small])
    assert seen == [("hard", 3, 0), ("soft", 2, 1), ("soft", 2, 2)]
    number = r"-?\d+\.\d"
    measured, gain = rf"{number} ± {number} % \(n = 2\), \d+ s", rf"{number} \[{number}, {number}\]"
    none, one, two = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"0 teachers: {measured}", none)
    assert re.fullmatch(rf"1 teachers: {measured}; over 0 {gain}", one)
    assert re.fullmatch(rf"2 teachers: {measured}; over 0 {gain}; over 1 {gain}", two)
