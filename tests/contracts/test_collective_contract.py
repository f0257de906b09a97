"""The contract of every Collective.

An implementation is a function that calls `function(collective, *args)` on all of its workers and returns their
results in the order of rank; add it to IMPLEMENTATIONS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dim_ray.core.training.ports import Collective, SingleWorker
from tests.helpers.gloo_workers import workers

Launch = Callable[..., list[Any]]


def single(function: Callable[..., Any], *args: Any) -> list[Any]:
    return [function(SingleWorker(), *args)]


def gloo(num_workers: int) -> Launch:
    return lambda function, *args: workers().run(num_workers, function, *args)


IMPLEMENTATIONS: dict[str, Launch] = {
    "SingleWorker": single,
    **{f"TorchCollective of {count}": gloo(count) for count in (1, 2, 3)},
}


@pytest.fixture(params=IMPLEMENTATIONS, ids=str)
def launch(request: pytest.FixtureRequest) -> Launch:
    return IMPLEMENTATIONS[request.param]


def place(collective: Collective) -> tuple[int, int]:
    return collective.rank, collective.num_workers


def test_workers_know_their_number_and_how_many_they_are(launch: Launch) -> None:
    places = launch(place)
    assert places == [(rank, len(places)) for rank in range(len(places))]


def gradient(rank: int, number: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(100 * rank + number))


SHAPES = [(3, 4), (), (0,), (2, 1, 3, 3), (5,)]


def average_gradients(collective: Collective) -> list[Tensor]:
    parameters = [nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    for number, parameter in enumerate(parameters):
        parameter.grad = gradient(collective.rank, number, SHAPES[number])
    collective.average_gradients(iter(parameters))
    assert all(bool((parameter == 1).all()) for parameter in parameters)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def test_gradients_become_their_mean_and_the_same_bits_on_every_worker(launch: Launch) -> None:
    results = launch(average_gradients)
    for number, shape in enumerate(SHAPES):
        mean = sum(gradient(rank, number, shape).double() for rank in range(len(results))) / len(results)
        for result in results:
            assert result[number].dtype == torch.float32
            assert torch.equal(result[number], results[0][number])
            torch.testing.assert_close(result[number].double(), mean)


def average_gradients_of_several_kinds(collective: Collective) -> tuple[list[Tensor | None], list[tuple[int, ...]]]:
    half = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    channels_last = nn.Parameter(torch.zeros(2, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    half.grad = torch.full_like(half, float(collective.rank))
    values = torch.arange(24.0).view(2, 3, 2, 2) * (collective.rank + 1)
    channels_last.grad = values.contiguous(memory_format=torch.channels_last)
    collective.average_gradients([half, channels_last, frozen])
    gradients = [parameter.grad for parameter in (half, channels_last, frozen)]
    return gradients, [gradient.stride() for gradient in gradients if gradient is not None]


def test_types_and_memory_layouts_may_differ_and_frozen_parameters_stay_without_gradient(launch: Launch) -> None:
    results = launch(average_gradients_of_several_kinds)
    count = len(results)
    for (half, channels_last, frozen), strides in results:
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), torch.full((4,), (count - 1) / 2))
        torch.testing.assert_close(channels_last, torch.arange(24.0).view(2, 3, 2, 2) * (count + 1) / 2)
        assert strides[1] == (12, 1, 6, 3)
        assert frozen is None


def gather(collective: Collective) -> tuple[list[Tensor], list[Tensor]]:
    own = torch.arange(6.0, requires_grad=True).view(2, 3).T + 10 * collective.rank  # not contiguous
    scalar = torch.tensor(collective.rank)
    return collective.gather(own), collective.gather(scalar)


def test_tensors_of_all_workers_are_gathered_in_the_order_of_rank_without_gradients(launch: Launch) -> None:
    results = launch(gather)
    for tensors, ranks in results:
        assert [rank.item() for rank in ranks] == list(range(len(results)))
        for rank, tensor in enumerate(tensors):
            assert torch.equal(tensor, torch.arange(6.0).view(2, 3).T + 10 * rank)
            assert not tensor.requires_grad


def average_nothing(collective: Collective) -> bool:
    collective.average_gradients([])
    return collective.any(False)


def test_no_parameters_are_allowed(launch: Launch) -> None:
    assert not any(launch(average_nothing))


def ask(collective: Collective, flagged: tuple[int, ...]) -> bool:
    return collective.any(collective.rank in flagged)


@pytest.mark.parametrize("flagged", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_every_worker_learns_whether_any_of_them_is_flagged(launch: Launch, flagged: tuple[int, ...]) -> None:
    answers = launch(functools.partial(ask, flagged=flagged))
    expected = any(rank < len(answers) for rank in flagged)
    assert answers == [expected] * len(answers)
    assert all(isinstance(answer, bool) for answer in answers)
