from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from dim_ray.errors import StorageError
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.filesystem import open_root
from tests.helpers.disks import after, fill, small_disk
from tests.helpers.s3 import Proxy
from tests.helpers.search_driver import KEY, STUDY, Driver
from tuning.search import journal as journal_module
from tuning.search.journal import study_journal


def test_journal_waits_for_a_full_disk_and_keeps_no_part_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        driver = Driver(str(disk))
        driver.start("a")
        journal = disk / KEY
        lines = journal.read_bytes().rstrip(b"\n")
        # A few bytes still fit into the file's last page, and so a part of the next line.
        journal.write_bytes(lines + b" " * (-len(lines) % 4096 - 20) + b"\n")
        before = journal.read_bytes()
        free = fill(disk)
        monkeypatch.setattr(journal_module, "PAUSES_SECONDS", ())
        with pytest.raises(StorageError, match="the disk is full"):
            driver.restarted()
        assert journal.read_bytes() == before
        monkeypatch.setattr(journal_module, "PAUSES_SECONDS", (0.05,) * 100)
        with after(0.5, free):
            again = driver.restarted()
        assert list(again.queued()) == [0]


def test_nothing_is_left_for_ray_to_pickle(driver: Driver, tmp_path: Path) -> None:
    driver.search.save(str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()
    assert driver.search.__getstate__() == {}


def test_journal_of_an_object_store_is_copied_in_few_requests_and_continued(object_store: str) -> None:
    with Proxy() as proxy:
        artifacts = ArtifactStore(proxy.uri(open_root(object_store).path))
        with study_journal(artifacts, KEY) as journal:
            study = optuna.create_study(storage=journal, study_name=STUDY)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=20)
            best = study.best_value
        assert [request.method for request in proxy.requests if request.method == "PUT"] == ["PUT"]
    with study_journal(ArtifactStore(object_store), KEY) as journal:
        assert optuna.load_study(storage=journal, study_name=STUDY).best_value == best


def test_object_store_and_file_hold_the_same_journal(tmp_path: Path, object_store: str) -> None:
    drivers = [Driver(str(tmp_path)), Driver(object_store)]
    for driver in drivers:
        driver.start("a", "b")
        driver.end("b", 0.25)

    def remembered(driver: Driver) -> list[tuple[Any, ...]]:
        return [(t.state, t.params, t.value, t.user_attrs) for t in driver.trials()]

    assert remembered(drivers[0]) == remembered(drivers[1])
