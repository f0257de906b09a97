"""The contract of every Validator. Add an implementation, as a function of a workspace, to IMPLEMENTATIONS."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import pytest
import torch

from dim_ray.core.generator.networks import Generator
from dim_ray.distributed.validator import SlotValidator
from dim_ray.errors import DivergedError
from dim_ray.pipeline.students import validate
from dim_ray.pipeline.validation import HereValidator, Validator
from dim_ray.pipeline.workspace import Workspace
from tests.helpers.slots import generator as generator
from tests.helpers.slots import slots as slots
from tests.helpers.slots import work as work

IMPLEMENTATIONS: dict[str, Callable[[Workspace], Validator]] = {
    "HereValidator": HereValidator,
    "SlotValidator": lambda work: SlotValidator(work, {"CPU": 1.0, "GPU": 0.0}),
}
SECONDS = 120.0
SLOW = {"SlotValidator": [pytest.mark.ray, pytest.mark.slow]}


@pytest.fixture(params=[pytest.param(name, marks=SLOW.get(name, ())) for name in IMPLEMENTATIONS])
def validator(request: pytest.FixtureRequest, work: Workspace) -> Validator:
    if request.param in SLOW:
        request.getfixturevalue("slots")
    return IMPLEMENTATIONS[request.param](work)


def test_generator_is_measured_as_it_was_when_it_began(
    validator: Validator, work: Workspace, generator: Generator
) -> None:
    expected = validate(work, generator)
    changed = copy.deepcopy(generator)
    validator.begin(changed)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.fill_(torch.nan)
    assert validator.take(wait=True) == expected
    with pytest.raises(DivergedError):
        validate(work, changed)


def test_measurements_are_returned_once_and_only_after_begin(validator: Validator, generator: Generator) -> None:
    assert validator.take(wait=True) is None
    validator.begin(generator)
    assert validator.take(wait=True)
    assert validator.take(wait=True) is None
    assert validator.take(wait=False) is None


def test_measurements_come_without_waiting(validator: Validator, work: Workspace, generator: Generator) -> None:
    for _ in range(2):
        validator.begin(generator)
        measured, until = None, time.monotonic() + SECONDS
        while measured is None:
            assert time.monotonic() < until
            measured = validator.take(wait=False)
            time.sleep(0.05)
        assert measured == validate(work, generator)


def test_students_that_diverge_are_an_error_of_only_that_generator(
    validator: Validator, work: Workspace, generator: Generator
) -> None:
    broken = copy.deepcopy(generator)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(torch.nan)
    validator.begin(broken)
    with pytest.raises(DivergedError):
        validator.take(wait=True)
    validator.begin(generator)
    assert validator.take(wait=True) == validate(work, generator)
