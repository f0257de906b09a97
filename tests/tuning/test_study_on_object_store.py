"""A whole study whose storage is an object store, over HTTP."""

from __future__ import annotations

import pytest

import dim_ray
from dim_ray.store.files.filesystem import open_root
from dim_ray.store.upkeep.verification import verify
from tests.helpers.runs import LONG, Run, evaluations, run, trials
from tests.store.conftest import object_store  # noqa: F401  # a fixture

pytestmark = pytest.mark.timeout(1500)  # two runs, on a machine that may be busy


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_study_on_an_object_store_goes_on_after_its_driver_was_killed(object_store: str) -> None:  # noqa: F811
    root = open_root(object_store)

    def there(folder: str) -> list[str]:
        return [info.path for info in root.children(folder, recursive=True) if info.is_file]

    flags = {**LONG, "--max-concurrent": "1"}
    killed = Run(object_store, flags)
    try:
        killed.wait_for(lambda: there("trials"), "a trial's row")
        killed.wait_for(lambda: [path for path in there("studies") if "/checkpoints/" in path], "the next one's state")
    finally:
        killed.kill()
    [first] = trials(object_store).to_dict("records")
    networks = [*there("teachers"), *there("priors")]
    assert networks

    resumed = run(object_store, flags)
    assert resumed.returncode == 0, resumed.stderr
    rows = trials(object_store).to_dict("records")
    assert [(row["number"], row["state"]) for row in rows] == [(0, "completed"), (1, "completed")]
    assert rows[0]["ended_at"] == first["ended_at"]  # it wasn't run again
    assert [*there("teachers"), *there("priors")] == networks
    assert len(evaluations(object_store)) == 1
    assert verify(object_store).problems == ()
    assert not [path for path in there("studies") if "/checkpoints/" in path]
    generator = dim_ray.best_generator(object_store, dataset="digits", ipc=1)
    assert generator.fingerprint in {row["generator"] for row in rows}
    assert resumed.leftovers() == {}
    assert killed.leftovers() == {}
