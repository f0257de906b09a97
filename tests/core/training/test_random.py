from __future__ import annotations

import torch

from dim_ray.core.training.random import derive_seed, stream


def test_seed_is_the_same_in_every_version_and_process() -> None:
    assert derive_seed(0, "prior", "order", 3) == 6302323226574267515
    assert stream(0, "adversarial", 1, step=1000).initial_seed() == derive_seed(0, "adversarial", 1, 1000)


def test_every_part_of_the_purpose_changes_the_seed() -> None:
    seeds = [
        derive_seed(seed, *purpose)
        for seed in range(3)
        for purpose in ([], ["a"], ["a", 0], ["a", 1], ["b"], ["b", 0], ["a", "b"], ["a", 0, 1], ["a", 1, 0], ["a", 10])
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_of_steps_and_purposes_are_not_alike() -> None:
    draws = torch.stack(
        [torch.randn(2000, generator=stream(0, purpose, step=step)) for purpose in ("a", "b") for step in range(4)]
    )
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.1


def test_stream_starts_anew_and_does_not_touch_the_global_state() -> None:
    before = torch.get_rng_state()
    first, again = (torch.rand(5, generator=stream(7, "noise", step=2)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
