"""Validations on slots of a real Ray that others want too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import ray

from dim_ray.core.generator.networks import Generator
from dim_ray.distributed import validator
from dim_ray.distributed.validator import SlotValidator
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.slots import generator as generator
from tests.helpers.slots import slots as slots
from tests.helpers.slots import work as work

SECONDS = 120.0
ONE_CORE = {"CPU": 1.0, "GPU": 0.0}
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("slots")]


@pytest.fixture
def busy() -> Iterator[None]:
    """An actor that holds all cores."""
    holder = ray.remote(num_cpus=os.cpu_count())(Holder).remote()
    ray.get(holder.is_there.remote())
    yield
    ray.kill(holder)


class Holder:
    def is_there(self) -> bool:
        return True


@pytest.mark.usefixtures("busy")
def test_generator_is_measured_in_place_if_no_slot_is_free(
    work: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "remote", lambda *args, **options: pytest.fail("a task was sent"))
    here = SlotValidator(work, ONE_CORE)
    here.begin(generator)
    assert here.take(wait=False) == validate(work, generator)


@pytest.mark.usefixtures("busy")
def test_slot_that_others_have_taken_is_not_waited_for(
    work: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    late = SlotValidator(work, ONE_CORE)
    late.begin(generator)
    assert late.take(wait=False) is None
    assert late.take(wait=True) == validate(work, generator)
    late.begin(generator)  # it can be used again
    assert late.take(wait=True) == validate(work, generator)


def test_validation_whose_process_dies_is_repeated_in_place(
    work: Workspace, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = SlotValidator(work, ONE_CORE)
    monkeypatch.setattr(validator, "_validate", begin_and_die)
    lost.begin(generator)
    measured, until = None, time.monotonic() + SECONDS
    while measured is None:
        assert time.monotonic() < until
        measured = lost.take(wait=False)
    assert measured == validate(work, generator)


def begin_and_die(work: Workspace, generator: Generator) -> Iterator[None]:
    """Begin, and be killed as on a machine without memory."""
    yield None
    os.kill(os.getpid(), signal.SIGKILL)
