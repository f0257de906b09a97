from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dim_ray.config import NetworksConfig
from dim_ray.core.training.ports import SilentReporter
from dim_ray.distributed.cluster.placement import Placement
from dim_ray.distributed.preflight.needs import Needs, estimate_needs
from dim_ray.pipeline.teachers import build_teachers
from dim_ray.pipeline.workspace import Workspace
from tests.helpers import tiny
from tests.helpers.small import make_work


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return make_work(tmp_path)


def needs(work: Workspace, *, num_trials: int = 1, num_workers: int = 1, max_concurrent: int = 4) -> Needs:
    placement = Placement(
        num_workers=num_workers, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=max_concurrent
    )
    return estimate_needs(work, placement, num_trials=num_trials)


def with_pool(work: Workspace, **changes: Any) -> Workspace:
    return replace(work, config=replace(work.config, pool=replace(work.config.pool, **changes)))


def test_data_are_all_images_and_labels(work: Workspace) -> None:
    num_images = 3 * (8 + 4 + 4)
    found = needs(work)
    assert found.dataset_bytes == num_images * (8 * 8 + 8)  # a byte a pixel, and 8 a label
    assert found.temp_bytes == 1_000_000_000 + found.dataset_bytes


def test_pool_is_held_with_every_snapshot_and_divided_between_workers(work: Workspace) -> None:
    teacher = sum(value.nbytes for value in tiny.make_teachers(work.dataset, [1])[0].snapshots[0].values())
    none, eight = needs(with_pool(work, kind="online")), needs(with_pool(work, size=8, num_snapshots=3))
    assert eight.worker_bytes - none.worker_bytes == 8 * 3 * teacher
    shared = needs(with_pool(work, size=8, num_snapshots=3), num_workers=4)
    assert shared.worker_bytes - none.worker_bytes == 2 * 3 * teacher
    assert eight.storage_bytes - none.storage_bytes == 8 * 3 * teacher


def test_architectures_of_the_pool_are_counted_as_they_are(work: Workspace) -> None:
    def pool_bytes(*names: str) -> int:
        mixed = replace(work, config=replace(work.config, networks=NetworksConfig(teachers=names)))
        return needs(with_pool(mixed, size=4)).worker_bytes - needs(with_pool(work, kind="online")).worker_bytes

    assert 2 * pool_bytes("convnet3_w8", "convnet3_w16") == pool_bytes("convnet3_w8") + pool_bytes("convnet3_w16")


def test_teachers_that_the_storage_holds_need_no_place(work: Workspace) -> None:
    before = needs(work)
    build_teachers(work, [0], SilentReporter())
    after = needs(work)
    assert after.storage_bytes < before.storage_bytes
    assert after.worker_bytes == before.worker_bytes


def test_networks_are_held_with_gradients_and_moments_and_saved_without_gradients(work: Workspace) -> None:
    pair = sum(value.nbytes for value in tiny.make_pair(work.dataset).weights().values())
    online = with_pool(work, kind="online")
    one, two = needs(online), needs(online, num_trials=2)
    assert one.worker_bytes == 500_000_000 + one.dataset_bytes + 4 * pair
    assert (one.storage_bytes, two.storage_bytes) == (3 * pair, 6 * pair)


def test_no_more_workers_are_counted_than_run_at_a_time(work: Workspace) -> None:
    found = needs(work, num_trials=2, num_workers=3)
    assert found.num_workers == 6
    assert needs(work, num_trials=9, num_workers=3).num_workers == 12
    assert found.memory_bytes(2) == 2 * found.worker_bytes + found.dataset_bytes
    assert found.memory_bytes(64) == found.memory_bytes(6)
    assert found.memory_bytes(0) == 0


def test_variants_need_the_memory_of_the_largest_and_the_disk_of_all_teachers(work: Workspace) -> None:
    placement = Placement(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=4)
    fields = [{"pool.num_snapshots": 1}, {"pool.num_snapshots": 3}, {"generator.capacity": 20, "pool.num_snapshots": 1}]
    variants = [work.config.with_fields(own) for own in fields]
    each = [needs(replace(work, config=config)) for config in variants]
    together = estimate_needs(work, placement, num_trials=1, variants=variants)
    assert together.worker_bytes == max(own.worker_bytes for own in each)
    pools = sum(needs(with_pool(work, num_snapshots=n)).storage_bytes for n in (1, 3))
    pair = needs(with_pool(work, kind="online")).storage_bytes
    largest = needs(with_pool(replace(work, config=variants[2]), kind="online")).storage_bytes
    assert together.storage_bytes == pools - 2 * pair + largest
