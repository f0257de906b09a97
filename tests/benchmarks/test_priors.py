from __future__ import annotations

import time

import pytest
import torch

from benchmarks.priors import VARIANTS, main, train_for
from dim_ray.config import Config
from dim_ray.core.data.dataset import load_dataset


def test_prior_trains_until_its_time_is_over() -> None:
    config = Config().with_fields({**VARIANTS["half"], "prior.batch_size": 64, "generator.capacity": 4})
    dataset = load_dataset(config.data)
    before, _ = train_for(config, dataset, 0.0)
    started = time.process_time()
    after, epochs = train_for(config, dataset, 1.0)
    assert time.process_time() - started >= 1.0
    assert 0 < epochs < 1000
    weights = zip(before.generator.parameters(), after.generator.parameters(), strict=True)
    assert any(not torch.equal(own, other) for own, other in weights)


def test_each_variant_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--recipe", "digits", "--seconds", "0.2", "--students", "1", "--epochs", "1"]
    main(["--dataset", "digits", *short, "--only", "half", "half, residual"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("seed")[0].strip() for line in lines] == ["half", "half, residual"]
