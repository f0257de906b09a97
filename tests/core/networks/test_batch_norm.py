"""Batch norm that is shared by workers is that of the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dim_ray.core.networks.batch_norm import BatchNorm1d, BatchNorm2d, share_batch_norm
from dim_ray.core.training.ports import Collective
from dim_ray.core.training.random import stream
from tests.helpers.gloo_workers import workers

SHAPES = [(12, 5), (12, 5, 4, 4)]


def make(shape: tuple[int, ...], *, plain: bool) -> nn.Module:
    kinds: dict[bool, tuple[type[nn.Module], type[nn.Module]]] = {
        True: (nn.BatchNorm1d, nn.BatchNorm2d),
        False: (BatchNorm1d, BatchNorm2d),
    }
    module = kinds[plain][len(shape) == 4](shape[1])
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.normal_(generator=stream(number, "parameters"))
    return module


def make_data(shape: tuple[int, ...], *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns maps far from zero, every image at another place, and what the derivative of the loss is."""
    maps = torch.randn(shape, generator=stream(0)) + 3 * torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
    if len(shape) == 4:
        maps = maps.contiguous(memory_format=torch.channels_last)
    return scale * maps, torch.randn(shape, generator=stream(1))


def go_through(module: nn.Module, maps: Tensor, weights: Tensor) -> list[Tensor]:
    maps = maps.clone().requires_grad_()
    normal = module(maps)
    (normal * weights).sum().backward()
    assert maps.grad is not None
    assert maps.grad.dtype == maps.dtype
    return [normal.detach(), maps.grad]


def go_through_a_slice(
    collective: Collective, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor], Tensor]:
    module = make(shape, plain=False)
    share_batch_norm(nn.Sequential(module), collective)
    maps, weights = make_data(shape)
    share = shape[0] // collective.num_workers
    own = slice(share * collective.rank, share * (collective.rank + 1))
    for _ in range(2):
        passed = go_through(module, maps[own].to(dtype), weights[own])
    gradients = [parameter.grad for parameter in module.parameters()]
    state = dict(module.state_dict())
    module.eval()
    with torch.no_grad():
        evaluated = module(maps)
    return passed, [g for g in gradients if g is not None], state, evaluated


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_compute_what_one_would_with_the_whole_batch(shape: tuple[int, ...], num_workers: int) -> None:
    plain = make(shape, plain=True)
    for _ in range(2):
        expected = go_through(plain, *make_data(shape))
    results = workers().run(num_workers, go_through_a_slice, shape, torch.float32)
    for index, whole in enumerate(expected):
        torch.testing.assert_close(torch.cat([passed[index] for passed, *_ in results]), whole, rtol=1e-5, atol=1e-5)
    for index, parameter in enumerate(plain.parameters()):
        assert parameter.grad is not None
        total = torch.stack([gradients[index] for _, gradients, *_ in results]).sum(dim=0)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-5, atol=1e-4)
    plain.eval()
    for _, _, state, evaluated in results:
        torch.testing.assert_close(state, dict(plain.state_dict()), rtol=1e-5, atol=1e-6)
        assert all(torch.equal(state[name], results[0][2][name]) for name in state), "statistics differ between workers"
        torch.testing.assert_close(evaluated, plain(make_data(shape)[0]))


def test_passes_in_bfloat16_have_statistics_in_float32() -> None:
    shape = SHAPES[1]
    exact = go_through(make(shape, plain=True), *make_data(shape))
    results = workers().run(2, go_through_a_slice, shape, torch.bfloat16)
    for index, whole in enumerate(exact):
        found = torch.cat([passed[index] for passed, *_ in results])
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), whole, rtol=0.05, atol=0.1)
    assert all(state["running_var"].dtype == torch.float32 for _, _, state, _ in results)


def test_alone_it_is_pytorchs_own_bit_for_bit() -> None:
    for shape in SHAPES:
        ours, theirs = make(shape, plain=False), make(shape, plain=True)
        for found, expected in zip(
            go_through(ours, *make_data(shape)), go_through(theirs, *make_data(shape)), strict=True
        ):
            assert torch.equal(found, expected)
