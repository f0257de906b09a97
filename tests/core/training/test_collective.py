"""TorchCollective, beyond the contract in tests/contracts/test_collective_contract.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dim_ray.core.training.collective import TorchCollective
from dim_ray.core.training.ports import Collective
from tests.helpers.gloo_workers import MAX_WORKERS, workers


def average_where_some_have_no_gradient(collective: Collective) -> list[Tensor | None]:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 6.0)
    if collective.rank == 0:
        parameters[1].grad = torch.full((2,), 6.0)
    collective.average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_missing_gradient_counts_as_zeros(num_workers: int) -> None:
    for gradients in workers().run(num_workers, average_where_some_have_no_gradient):
        assert [gradient.tolist() for gradient in gradients] == [[6.0] * 2, [6.0 / num_workers] * 2, [0.0] * 2]


def count_messages(collective: Collective) -> list[int]:
    network = nn.Sequential(*[layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.BatchNorm1d(4))])
    network(torch.randn(3, 4)).square().sum().backward()
    actions: list[Callable[[], Any]] = [
        functools.partial(collective.average_gradients, network.parameters()),
        functools.partial(collective.any, True),
        functools.partial(collective.any, False),
    ]
    counts = []
    for action in actions:
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
            action()
        counts.append(all_reduce.call_count)
    return counts


def test_each_method_sends_one_message_whatever_the_number_of_tensors() -> None:
    assert workers().run(2, count_messages) == [[1, 1, 1]] * 2


def train_a_little(collective: Collective, seed: int) -> dict[str, Tensor]:
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    data = torch.randn(3, 12, 4, generator=rng)
    share = 12 // collective.num_workers
    for batch in data:
        own = batch[share * collective.rank : share * (collective.rank + 1)]
        optimizer.zero_grad(set_to_none=True)
        network(own).square().mean().backward()
        collective.average_gradients(network.parameters())
        optimizer.step()
    return dict(network.state_dict())


def test_workers_with_a_share_of_the_batch_train_like_one_with_all_of_it() -> None:
    single, *_ = workers().run(1, train_a_little, 0)
    for num_workers in (2, 3):
        results = workers().run(num_workers, train_a_little, 0)
        for name, tensor in single.items():
            torch.testing.assert_close(results[0][name], tensor)
            assert all(torch.equal(result[name], results[0][name]) for result in results), name


def test_workers_of_a_group_do_not_involve_the_others() -> None:
    for num_workers in range(1, MAX_WORKERS + 1):
        assert len(workers().run(num_workers, count_messages)) == num_workers


def test_without_a_process_group_it_is_an_error() -> None:
    with pytest.raises(ValueError, match="process group"):
        TorchCollective()
