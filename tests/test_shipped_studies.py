"""Every configuration that is shipped can be used by its name."""

from __future__ import annotations

import pytest

from dim_ray.cli import parse
from dim_ray.config import Config
from dim_ray.core.checks import check_evaluation, check_training
from dim_ray.flags import DEFAULT_STUDY, DISTILL_FLAGS, add_local, shipped_studies
from tests.core.tiny import make_dataset


def read(name: str) -> Config:
    argv = ["--config", name]
    program = "python -m dim_ray.distill"
    return parse(argv, program=program, description="", flags=DISTILL_FLAGS, defaults=DEFAULT_STUDY, extra=add_local)[0]


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_configuration_fits_the_data_that_it_names(name: str) -> None:
    config = read(name)
    assert config != Config()
    dataset = make_dataset(num_classes=10, per_class=130, channels=1, size=8)
    check_training(config, dataset)
    check_evaluation(config, dataset)
