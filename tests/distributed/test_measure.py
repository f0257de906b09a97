"""A stored generator, measured by a task of a real Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dim_ray.distributed.cluster.joining import cluster
from dim_ray.distributed.measure import validate_elsewhere
from dim_ray.errors import DivergedError
from dim_ray.pipeline.generators import load_module
from dim_ray.pipeline.students import validate
from dim_ray.progress import SilentProgress
from tests.helpers.small import build_networks, distil, make_work


@pytest.mark.ray
@pytest.mark.slow
def test_task_measures_a_stored_generator_as_this_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    work = make_work(tmp_path)
    build_networks(work)
    generator = distil(work)
    expected = validate(work, load_module(work, generator))
    evaluation = replace(work.config.evaluation, learning_rate=1e30, optimizer="sgd")
    broken = replace(work, config=replace(work.config, evaluation=evaluation))
    with cluster(work.config, SilentProgress()) as placement:
        assert validate_elsewhere(work, generator, placement) == expected
        with pytest.raises(DivergedError, match=r"^(?!.*Traceback)"):
            validate_elsewhere(broken, generator, placement)
