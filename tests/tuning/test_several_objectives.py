"""A study with two objectives as a person runs it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

import dim_ray
from tests.helpers.runs import ONE_STUDENT, run, space, trials
from tuning.search.journal import open_journal

FLAGS = {
    **ONE_STUDENT,
    "--study.objectives": "accuracy generator_bytes",
    "--study.scheduler": "none",
    "--study.space": space({"generator.capacity": [4, 8]}),
    "--study.selection_images_per_class": "1 2",
    "--study.name": "two",
}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_study_of_two_objectives_ends_with_its_pareto_set_and_goes_on_from_its_journal(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    first = run(storage, {**FLAGS, "--num-trials": "3"})
    assert first.returncode == 0, f"{first.stdout}\n{first.stderr}\n{first.log()}"
    study = run(storage, {**FLAGS, "--num-trials": "5"})
    assert study.returncode == 0, f"{study.stdout}\n{study.stderr}\n{study.log()}"

    rows = trials(storage)
    assert rows["state"].tolist() == ["completed"] * 5
    assert set(rows["objective_name"]) == {"validation_accuracy, on_the_fly, mean of IPC 1, 2"}
    best = rows.sort_values(["objective", "number"], ascending=[False, True]).iloc[0]
    assert f"best: trial {best['number']}," in study.stdout

    chosen = dim_ray.open_store(storage).pareto(study="two")
    assert "Pareto set of accuracy, generator_bytes" in study.stdout
    shown = [line.split() for line in study.stdout.splitlines()]
    for row in chosen.to_dict("records"):
        values = (f"{100 * row['objective']:.1f}", f"{row['generator_bytes']:,}", f"{row['alone_device_seconds']:,.0f}")
        chosen_line = [str(row["number"]), str(row["capacity"]), str(row["pool_size"]), *values, row["generator"]]
        assert chosen_line in shown

    journal = open_journal(storage / "studies/two/optuna.journal")
    told = optuna.load_study(storage=journal, study_name="two")
    values_by_number = {trial.user_attrs["number"]: trial.values for trial in told.get_trials()}
    expected = zip(rows["number"], rows["objective"], rows["generator_bytes"], strict=True)
    assert values_by_number == {number: [accuracy, size_bytes] for number, accuracy, size_bytes in expected}
    assert {t.user_attrs["number"] for t in told.best_trials} >= set(chosen["number"])
