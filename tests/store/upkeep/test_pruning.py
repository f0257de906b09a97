"""What nobody needs goes, and nothing else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dim_ray.errors import StorageError
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.reader import Reader
from dim_ray.store.upkeep.pruning import plan_pruning, prune
from dim_ray.store.upkeep.verification import verify
from dim_ray.store.writer import Writer
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation, trial, validation

BEST, WORSE, TRIED, UNNAMED, YOUNG = (digit * 16 for digit in "abcde")
SIZE = 10_000


def add(root: Path, kind: str, name: str, *, days: float = 30, **card: Any) -> None:
    ArtifactStore(str(root)).write(kind, name, {"x.safetensors": b"x" * SIZE}, card)
    created_at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    edit_card(root / kind / name, lambda values: values.update(created_at=created_at))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    needs = {"prior": "1" * 16, "teachers": ["2" * 16, "3" * 16]}
    for number, name in enumerate((BEST, WORSE, TRIED)):
        add(tmp_path, "generators", name, days=30 - number, **needs)
    add(tmp_path, "generators", UNNAMED, prior="4" * 16, teachers=["3" * 16, "5" * 16])
    add(tmp_path, "generators", YOUNG, days=0.5, prior="6" * 16, teachers=[])
    for name in "146":
        add(tmp_path, "priors", name * 16)
    for name in "235":
        add(tmp_path, "teachers", name * 16)
    Writer(str(tmp_path)).append_evaluations(
        [evaluation(generator=BEST, validation_accuracy=0.9), evaluation(generator=WORSE, validation_accuracy=0.8)]
    )
    Writer(str(tmp_path)).append_trial(trial(generator=TRIED))
    return tmp_path


def names(root: Path, **options: Any) -> list[str]:
    return [f"{removal.kind}/{removal.fingerprint[0]}" for removal in plan_pruning(str(root), **options).removals]


def test_generators_that_no_row_names_go_with_what_only_they_needed(storage: Path) -> None:
    assert sorted(names(storage)) == ["generators/d", "priors/4", "teachers/5"]


def test_generator_that_only_validations_name_is_kept_unless_others_are_of_interest(storage: Path) -> None:
    Writer(str(storage)).append_validations([validation(generator=UNNAMED)])
    assert names(storage) == []
    assert "generators/d" in names(storage, dataset="digits")


def test_a_plan_deletes_nothing_and_its_sizes_are_those_of_the_disk(storage: Path) -> None:
    before = {path: path.stat().st_size for path in storage.rglob("*") if path.is_file()}
    plan = plan_pruning(str(storage))
    assert {path: path.stat().st_size for path in storage.rglob("*") if path.is_file()} == before
    assert plan.size_bytes == sum(before.values())
    prune(str(storage), plan)
    assert plan.left_bytes == sum(path.stat().st_size for path in storage.rglob("*") if path.is_file())


def test_pruned_storage_has_every_row_and_no_problem(storage: Path) -> None:
    prune(str(storage), plan_pruning(str(storage)))
    assert sorted(path.name[0] for path in (storage / "generators").iterdir()) == ["a", "b", "c", "e"]
    assert verify(str(storage)).problems == ()
    assert len(Reader(str(storage)).evaluations()) == 2
    assert names(storage) == []


def test_quota_takes_what_only_distilling_needs_and_then_what_is_nowhere_the_best_oldest_first(storage: Path) -> None:
    plan = plan_pruning(str(storage), quota_bytes=0)
    beyond = [f"{own.kind}/{own.fingerprint[0]}" for own in plan.removals if own.reason.startswith("the quota")]
    assert beyond == ["priors/1", "teachers/2", "teachers/3", "generators/b", "generators/c"]


def test_quota_takes_no_more_than_it_must(storage: Path) -> None:
    plan = plan_pruning(str(storage))
    quota = plan.left_bytes - SIZE // 2
    with_quota = plan_pruning(str(storage), quota_bytes=quota)
    assert len(with_quota.removals) == len(plan.removals) + 1
    assert with_quota.left_bytes <= quota
    assert plan_pruning(str(storage), quota_bytes=plan.left_bytes).removals == plan.removals


def test_rows_that_are_of_no_interest_keep_nothing(storage: Path) -> None:
    Writer(str(storage)).append_evaluations([evaluation(generator=WORSE, dataset="mnist")])
    everything = names(storage)
    asked = names(storage, dataset="digits")
    assert set(asked) - set(everything) == {"generators/c"}  # only a trial names it
    assert set(names(storage, dataset="mnist")) - set(everything) == {"generators/a", "generators/c"}
    with pytest.raises(StorageError, match=r"no evaluation under .* has {'dataset': 'nist'}, so nothing would be kept"):
        names(storage, dataset="nist")
    assert not set(names(storage, dataset="mnist")) & {"generators/e", "priors/6"}, "young ones stay"


def test_what_was_never_finished_goes_once_nobody_can_be_writing_it(storage: Path) -> None:
    before = names(storage)
    for name, days in (("7" * 16, 2.0), ("8" * 16, 0.5)):
        file = storage / "teachers" / name / "snapshots.safetensors"
        file.parent.mkdir()
        file.write_bytes(b"x" * 7)
        then = (datetime.now(UTC) - timedelta(days=days)).timestamp()
        os.utime(file, (then, then))
    plan = plan_pruning(str(storage))
    [unfinished] = [own for own in plan.removals if own.reason == "it was never finished"]
    assert (unfinished.kind, unfinished.fingerprint, unfinished.size_bytes) == ("teachers", "7" * 16, 7)
    assert len(plan.removals) == len(before) + 1
    prune(str(storage), plan)
    assert not (storage / "teachers" / ("7" * 16)).exists()
    assert (storage / "teachers" / ("8" * 16)).exists()


def test_removing_on_an_object_store_leaves_no_file(object_store: str) -> None:
    artifacts = ArtifactStore(object_store)
    artifacts.write("generators", BEST, {"x": b"x"}, {})
    artifacts.remove("generators", BEST)
    artifacts.remove("generators", BEST)
    assert not artifacts.exists("generators", BEST)
    assert [info for info in open_root(object_store).children("generators", recursive=True) if info.is_file] == []


def test_empty_storage_has_nothing_to_prune(tmp_path: Path) -> None:
    plan = plan_pruning(str(tmp_path / "nothing"), quota_bytes=1)
    assert (plan.removals, plan.size_bytes) == ((), 0)
