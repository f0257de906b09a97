from __future__ import annotations

import pandas as pd
import pytest
import torch

from benchmarks.signals import NAMES, Signals, neighbours, probe_accuracy, rank_correlations
from tests.helpers import tiny
from tests.helpers.tiny_students import make_generator


def points(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) + shift


def test_measurements_of_neighbours_are_those_of_a_loop() -> None:
    real, generated, k = points(40, 0), points(30, 1, shift=0.7), 5
    radii = [sorted(float((a - b).norm()) for b in real)[k] for a in real]
    own_radii = [sorted(float((a - b).norm()) for b in generated)[k] for a in generated]
    near = [[float((a - b).norm()) < radius for b in generated] for a, radius in zip(real, radii, strict=True)]
    expected = {
        "precision": sum(any(row[j] for row in near) for j in range(30)) / 30,
        "recall": sum(any(float((a - b).norm()) < r for b, r in zip(generated, own_radii, strict=True)) for a in real)
        / 40,
        "density": sum(map(sum, near)) / (30 * k),
        "coverage": sum(any(row) for row in near) / 40,
    }
    assert neighbours(real, generated) == pytest.approx(expected)


def test_probe_learns_from_generated_features_and_is_tested_on_real_ones() -> None:
    labels = torch.arange(30) % 3
    centres = 5 * torch.eye(3)
    generated, real = (centres[labels] + 0.1 * points(30, seed) for seed in (0, 1))
    assert probe_accuracy(generated, labels, real, labels) == 1
    assert probe_accuracy(generated, (labels + 1) % 3, real, labels) == 0


def test_every_measurement_is_there_and_the_same_again() -> None:
    dataset = tiny.make_dataset()
    signals = Signals(tiny.make_teachers(dataset, [1])[0], dataset)
    first = signals(make_generator().eval())
    assert tuple(first) == NAMES
    assert all(0 <= value <= 2 for value in first.values())
    assert first == signals(make_generator().eval())


def test_correlation_is_of_ranks_over_generators_at_their_end() -> None:
    rows = [
        {
            "generator": number,
            "epoch": epoch,
            "accuracy": number + epoch + student,
            "up": 2.0**number,
            "down": -number,
            "odd": number % 2,
        }
        for number in range(5)
        for epoch in (1, 2)
        for student in (0, 1)
    ]
    assert rank_correlations(pd.DataFrame(rows), ["up", "down"]) == pytest.approx({"up": 1, "down": -1})
    within = [{**row, "down": -100 * (row["generator"] % 2) + row["generator"]} for row in rows]
    assert rank_correlations(pd.DataFrame(within), ["down"])["down"] < 0.5
    assert rank_correlations(pd.DataFrame(within), ["down"], within="odd") == pytest.approx({"down": 1})
