from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from dim_ray.config import StorageConfig, to_dict
from dim_ray.errors import ConfigError, DimError, ResourceError
from dim_ray.pipeline.checkpoints import checkpoint_key
from dim_ray.pipeline.generators import generator_fingerprint
from dim_ray.pipeline.workspace import Workspace
from dim_ray.store.files import claims
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.reader import Reader
from tests.helpers.small import SEARCHED, make_work
from tests.store.conftest import object_store  # noqa: F401  # a fixture
from tuning.cost import network_keys
from tuning.record import StudyRecord, study_name
from tuning.search.settling import Finished
from tuning.search.space import configure

PARAMETERS = {"pool.size": 2, "generator.capacity": 8, "matching.weight": 0.25, "matching.adversarial_weight": 1.5}
LAST_EPOCH = 2  # of the tiny configuration


def result(accuracy: float = 0.5, epoch: int = LAST_EPOCH, **more: Any) -> dict[str, Any]:
    return {"validation_accuracy": accuracy, "epoch": epoch, "time_total_s": 3.0, **more}


def with_study(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, study=replace(work.config.study, **changes)))


def with_matching(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, matching=replace(work.config.matching, **changes)))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


@pytest.fixture
def record(work: Workspace) -> StudyRecord:
    record = StudyRecord(work)
    record.open()
    return record


def test_name_is_another_one_for_whatever_changes_the_result(work: Workspace) -> None:
    others = [
        with_matching(work, epochs=3),
        with_study(work, space={**SEARCHED, "generator.capacity": [6]}),
        with_study(work, seed=1),
        with_study(work, workers_per_trial=2),
    ]
    names = {study_name(w.config, w.dataset) for w in (work, *others)}
    names.add(study_name(work.config, replace(work.dataset, digest="1" * 16)))
    assert len(names) == 2 + len(others)
    assert all(name.startswith("tiny-") for name in names)


@pytest.mark.parametrize(
    "changes", [{"num_trials": 99}, {"max_concurrent": 1}, {"cpus_per_worker": 2}, {"max_failures": 0}]
)
def test_name_is_the_same_for_more_trials_or_another_machine(work: Workspace, changes: dict[str, Any]) -> None:
    other = with_study(work, **changes).config
    other = replace(other, storage=StorageConfig(root="elsewhere", checkpoint_seconds=1.0))
    assert study_name(other, work.dataset) == study_name(work.config, work.dataset)


def test_configured_name_is_taken_as_it_is(work: Workspace) -> None:
    assert study_name(with_study(work, name="mine").config, work.dataset) == "mine"


def test_configuration_is_stored_with_the_study(work: Workspace, record: StudyRecord, tmp_path: Path) -> None:
    stored = yaml.safe_load((tmp_path / "studies/tiny/config.yaml").read_text())
    assert stored == to_dict(work.config)


def test_study_goes_on_with_more_trials_and_another_place(work: Workspace, record: StudyRecord, tmp_path: Path) -> None:
    before = (tmp_path / "studies/tiny/study.json").read_bytes()
    StudyRecord(with_study(work, num_trials=9, max_concurrent=1)).open()
    assert (tmp_path / "studies/tiny/study.json").read_bytes() == before


def test_study_of_another_configuration_is_refused_with_the_fields_that_differ(
    work: Workspace, record: StudyRecord
) -> None:
    other = with_matching(with_study(work, num_trials=9, space={"pool.size": [1]}), weight=0.9)
    with pytest.raises(ConfigError) as refusal:
        StudyRecord(other).open()
    text = str(refusal.value)
    assert "study 'tiny' began with another configuration" in text
    assert "matching.weight was 0.5 and is 0.9" in text
    assert f"study.space was {str(SEARCHED)[:20]}" in text
    assert "and is {'pool.size': [1]}" in text
    assert "num_trials" not in text  # it may differ
    assert "--study" in text


def test_study_of_other_images_is_refused(work: Workspace, record: StudyRecord) -> None:
    other = replace(work, dataset=replace(work.dataset, digest="1" * 16))
    with pytest.raises(ConfigError, match=r"another configuration \(the images\)"):
        StudyRecord(other).open()


HOLDER = """
import sys
from tests.helpers.small import make_work
from tuning.cost import network_keys
from tuning.record import StudyRecord

with StudyRecord(make_work(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_study_that_another_process_runs_is_refused_until_it_is_gone(record: StudyRecord, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ResourceError, match="study 'tiny' is being run by another process"), record.held():
                pytest.fail("two hold it")
        finally:
            holder.kill()
    with record.held():  # a killed process holds nothing
        pass


def test_completed_trial_has_its_generator_and_all_that_made_it(work: Workspace, record: StudyRecord) -> None:
    record.write_trial(3, PARAMETERS, result(0.75))
    [row] = record.trials().to_dict("records")
    trial = replace(work, config=configure(work.config, PARAMETERS))
    assert (row["study"], row["number"], row["state"]) == ("tiny", 3, "completed")
    assert (row["pool_size"], row["capacity"], row["matching_weight"], row["adversarial_weight"]) == (2, 8, 0.25, 1.5)
    assert json.loads(row["params_json"]) == PARAMETERS
    assert json.loads(row["config_json"]) == to_dict(trial.config)
    assert row["generator"] == row["config_fingerprint"] == generator_fingerprint(trial)
    assert (row["objective"], row["epoch"], row["wall_seconds"], row["device_seconds"]) == (0.75, 2, 3.0, 3.0)
    assert row["objective_name"] == "validation_accuracy, on_the_fly, IPC 2"
    assert pd.isna(row["error"])
    assert (row["ended_at"] - row["started_at"]).total_seconds() == 3.0


def test_objective_says_how_many_students_it_is_the_mean_of(work: Workspace, record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.5))
    record.write_trial(1, PARAMETERS, result(0.0, diverged="nan"))
    several = StudyRecord(with_study(work, selection_seeds=3))
    several.write_trial(2, PARAMETERS, result(0.5, validation_std=0.01))
    rows = record.trials()
    assert rows["num_seeds"].fillna(0).tolist() == [1, 0, 3]
    assert rows["objective_std"].fillna(-1.0).tolist() == [-1.0, -1.0, 0.01]


def test_trial_below_the_last_epoch_was_stopped(record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.4, epoch=1))
    [row] = record.trials().to_dict("records")
    assert (row["state"], row["objective"], row["epoch"]) == ("stopped", 0.4, 1)
    assert pd.isna(row["generator"])


def test_diverged_trial_has_its_reason_and_no_generator(record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.0, diverged="loss nan"))
    [row] = record.trials().to_dict("records")
    assert (row["state"], row["objective"], row["error"]) == ("diverged", 0.0, "loss nan")
    assert pd.isna(row["generator"])


def test_trial_that_failed_with_the_same_one_says_so(record: StudyRecord) -> None:
    record.write_trial(1, PARAMETERS, {"failed_trial": 0})
    [row] = record.trials().to_dict("records")
    assert (row["state"], row["error"]) == ("failed", "it is the same as trial 0, which failed")
    assert pd.isna(row["reused_trial"])


@pytest.mark.parametrize("last", [None, {}])
def test_trial_without_a_result_failed(record: StudyRecord, last: dict[str, Any] | None) -> None:
    record.write_trial(0, PARAMETERS, last, error="ValueError: no")
    [row] = record.trials().to_dict("records")
    assert (row["state"], row["error"]) == ("failed", "ValueError: no")
    assert pd.isna(row["objective"])
    assert pd.isna(row["generator"])
    assert record.finished() == {}
    assert record.failed() == {0: PARAMETERS}


def test_devices_of_all_workers_count(work: Workspace) -> None:
    record = StudyRecord(with_study(work, workers_per_trial=2))
    record.write_trial(0, PARAMETERS, result())
    [row] = record.trials().to_dict("records")
    assert (row["wall_seconds"], row["device_seconds"]) == (3.0, 6.0)


def test_trial_that_is_written_again_takes_the_place_of_its_row(record: StudyRecord, tmp_path: Path) -> None:
    record.write_trial(0, PARAMETERS, None, error="killed")
    record.write_trial(0, PARAMETERS, result(0.6))
    assert record.finished() == {0: Finished(PARAMETERS, (0.6,))}
    assert record.failed() == {}
    assert len(list((tmp_path / "trials").rglob("*.parquet"))) == 1


def test_driver_reads_its_rows_once_and_again_after_it_wrote_one(
    record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = [], Reader.trials

    def count(reader: Reader, **filters: str) -> pd.DataFrame:
        reads.append(filters)
        return read(reader, **filters)

    monkeypatch.setattr(Reader, "trials", count)
    with record.held():
        record.write_trial(0, PARAMETERS, result(0.5))
        record.trials()["number"] = 7  # the frame is the caller's
        assert [record.best()["number"], len(record.finished())] == [0, 1]
        assert len(reads) == 1
        record.write_trial(1, PARAMETERS, result(0.6))
        assert [record.best()["number"], len(record.finished()), len(reads)] == [1, 2, 2]
    record.trials()
    record.trials()
    assert len(reads) == 4  # another process may write now


def test_driver_that_lost_its_study_to_another_writes_no_row(
    object_store: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims._Claim, "check", lost)
    record = StudyRecord(make_work(object_store))
    with record.held():
        assert len(open_root(object_store).children("studies/tiny/driver")) == 1
        with pytest.raises(ResourceError, match="taken over"):
            record.write_trial(0, PARAMETERS, result(0.5))
    assert record.trials().empty


def lost(claim: object) -> None:
    raise ResourceError("taken over")


def test_trials_come_in_order_of_their_numbers_and_of_this_study_alone(work: Workspace, record: StudyRecord) -> None:
    for number in (10, 2, 1):
        record.write_trial(number, PARAMETERS, result())
    StudyRecord(replace(work, study="another")).write_trial(0, PARAMETERS, result())
    assert record.trials()["number"].tolist() == [1, 2, 10]
    assert sorted(record.finished()) == [1, 2, 10]


def test_best_is_the_highest_completed_and_the_earliest_of_equals(record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.5))
    record.write_trial(2, PARAMETERS, result(0.8))
    record.write_trial(1, PARAMETERS, result(0.8))
    record.write_trial(3, PARAMETERS, result(0.99, epoch=1))  # stopped: there is no generator
    record.write_trial(4, PARAMETERS, result(0.99, diverged="loss nan"))
    assert record.best()["number"] == 1


def test_study_without_trials_has_no_best(record: StudyRecord) -> None:
    with pytest.raises(DimError, match=r"study 'tiny' has no completed trial \(none at all\)"):
        record.best()


def test_study_without_completed_trials_says_how_they_ended_and_why(record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.4, epoch=1))
    record.write_trial(1, PARAMETERS, result(0.0, diverged="loss nan"))
    record.write_trial(2, PARAMETERS, result(0.0, diverged="loss inf"))
    with pytest.raises(DimError) as refusal:
        record.best()
    text = str(refusal.value)
    assert "2 diverged, 1 stopped" in text
    assert "The first error: loss nan" in text
    assert "--num-trials" in text


def test_states_of_trials_that_completed_or_stopped_are_deleted_and_those_of_others_kept(
    work: Workspace, record: StudyRecord
) -> None:
    endings = [result(0.4, epoch=1), result(0.5), result(0.0, diverged="nan"), None]
    keys = []
    for number, ending in enumerate(endings):
        parameters = {**PARAMETERS, "matching.weight": 0.1 * (number + 1)}
        record.write_trial(number, parameters, ending)
        trial = replace(work, config=configure(work.config, parameters))
        keys.append(checkpoint_key(work.study, generator_fingerprint(trial)))
        work.artifacts.write_bytes(keys[-1], b"state")
    record.forget_checkpoints()
    assert [work.artifacts.read_bytes(key) for key in keys] == [None, None, b"state", b"state"]


def test_trial_that_took_over_a_result_says_whose_and_costs_nothing(record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.5))
    record.write_trial(1, PARAMETERS, result(0.5) | {"time_total_s": 0.0, "reused_trial": 0, "reused_seconds": 3.0})
    first, second = record.trials().to_dict("records")
    assert pd.isna(first["reused_trial"])
    assert (second["reused_trial"], second["state"], second["objective"]) == (0, "completed", 0.5)
    assert (second["device_seconds"], second["saved_device_seconds"]) == (0.0, 3.0)
    assert (first["device_seconds"], first["saved_device_seconds"]) == (3.0, 0.0)


def test_results_are_those_of_trials_that_ran_and_ended(work: Workspace, record: StudyRecord) -> None:
    record.write_trial(0, PARAMETERS, result(0.5))
    record.write_trial(1, PARAMETERS, result(0.5) | {"reused_trial": 0})
    stopped, diverged, failed = ({**PARAMETERS, "matching.weight": weight} for weight in (0.1, 0.2, 0.3))
    record.write_trial(2, stopped, result(0.4, epoch=1))
    record.write_trial(3, diverged, result(0.0, diverged="loss nan"))
    record.write_trial(4, failed, None)
    results = record.results()
    assert results == {
        record.generator_of(PARAMETERS): (0, result(0.5)),
        record.generator_of(stopped): (2, result(0.4, epoch=1)),
        record.generator_of(diverged): (3, result(0.0, diverged="loss nan")),
    }
    assert record.generator_of(PARAMETERS) == generator_fingerprint(
        replace(work, config=configure(work.config, PARAMETERS))
    )


def test_pool_sizes_that_lead_to_the_same_generator_are_the_same(work: Workspace) -> None:
    record = StudyRecord(with_matching(work, kind="none"))
    assert record.generator_of(PARAMETERS) == record.generator_of({**PARAMETERS, "pool.size": 1})
    assert record.generator_of(PARAMETERS) != record.generator_of({**PARAMETERS, "generator.capacity": 6})


def test_cost_is_what_was_built_and_run_against_every_trial_alone(work: Workspace, record: StudyRecord) -> None:
    trial = replace(work, config=configure(work.config, PARAMETERS))
    keys = network_keys(trial)
    teacher, other, prior = keys
    for key, seconds in ((teacher, 5.0), (other, 7.0), (prior, 20.0)):
        work.artifacts.write(*key.split("/"), {"weights": b""}, {"wall_seconds": seconds})
    record.note_missing([other, prior])  # the first was there
    record.note_missing([])
    record.write_trial(0, PARAMETERS, result(0.5))
    record.write_trial(1, {**PARAMETERS, "pool.size": 1, "matching.weight": 0.1}, result(0.5))
    record.write_trial(2, PARAMETERS, result(0.5) | {"time_total_s": 0.0, "reused_trial": 0, "reused_seconds": 3.0})
    assert record.trials()["saved_device_seconds"].tolist() == [32.0, 25.0, 35.0]
    cost = StudyRecord(work).cost()
    assert (cost.trials_seconds, cost.networks_seconds, cost.alone_seconds) == (6.0, 27.0, 98.0)
    assert (cost.spent_seconds, cost.saved_seconds) == (33.0, 65.0)


def test_configuration_is_checked_without_a_trace(work: Workspace, tmp_path: Path) -> None:
    assert not StudyRecord(work).check()
    assert not list(tmp_path.rglob("study.json"))
    StudyRecord(work).open()
    assert StudyRecord(work).check()
    with pytest.raises(ConfigError, match="began with another configuration"):
        StudyRecord(with_matching(work, weight=0.9)).check()
