"""Initial weights against PyTorch's own constructors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dim_ray.core.networks.initialise import initialise
from dim_ray.errors import ConfigError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(6, 6, 5, groups=3, bias=False),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 2),
        nn.Sequential(nn.GroupNorm(2, 4), nn.ReLU(), nn.LayerNorm([4, 2, 2])),
        nn.Linear(16, 3),
        nn.BatchNorm1d(3),
        nn.BatchNorm1d(3, affine=False),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.LayerNorm(3, elementwise_affine=False),
        nn.Linear(3, 2, bias=False),
        nn.Embedding(5, 3),
        nn.MultiheadAttention(4, 2),
        nn.MultiheadAttention(4, 2, bias=False),
    )


def spoil(module: nn.Module) -> nn.Module:
    for tensor in module.state_dict().values():
        tensor.fill_(77)
    return module


def test_uninitialised_memory_becomes_what_the_constructors_draw_for_the_same_seed() -> None:
    torch.manual_seed(5)
    expected = everything().state_dict()
    module = spoil(everything())
    initialise(module, rng(5))
    actual = module.state_dict()
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def test_global_random_state_is_neither_read_nor_changed() -> None:
    weights = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module, before = everything(), torch.get_rng_state()
        initialise(module, rng(5))
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(torch.cat([parameter.flatten() for parameter in module.parameters()]))
    assert torch.equal(*weights)


def test_a_second_draw_from_the_same_stream_gives_other_weights() -> None:
    stream, first, second = rng(), nn.Linear(4, 4), nn.Linear(4, 4)
    initialise(first, stream)
    initialise(second, stream)
    assert not torch.equal(first.weight, second.weight)


def test_weights_can_be_trained_afterwards() -> None:
    module = nn.Linear(3, 2)
    initialise(module, rng())
    module(torch.ones(1, 3)).sum().backward()
    assert module.weight.grad is not None


class _OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class _OwnBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3))


class _LinearWithMore(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("make", [_OwnParameter, _OwnBuffer, _LinearWithMore, lambda: nn.LSTM(3, 3)])
def test_a_module_that_is_not_known_is_refused_by_name_and_nothing_is_changed(make: Callable[[], nn.Module]) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"odd": make()}))
    before, stream = {name: tensor.clone() for name, tensor in module.state_dict().items()}, rng()
    kind = type(module[1]["odd"]).__name__
    with pytest.raises(ConfigError, match=f"'1.odd', a {kind} with"):
        initialise(module, stream)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(stream.get_state(), rng().get_state())


class _OwnWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(3))
        self.linear = nn.Linear(3, 3)

    @torch.no_grad()
    def initialise_weights(self, rng: torch.Generator) -> None:
        nn.init.normal_(self.scale, generator=rng)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)


def test_a_module_that_knows_its_weights_draws_them_in_its_turn() -> None:
    module, stream = nn.Sequential(nn.Linear(3, 3), _OwnWeights(), nn.Linear(3, 3)), rng(5)
    initialise(module, stream)
    twin, again = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), rng(5)
    initialise(twin[0], again)
    scale = torch.randn(3, generator=again)
    initialise(twin[1], again)
    for one, other in ((module[0], twin[0]), (module[2], twin[1])):
        assert torch.equal(one.weight, other.weight)
    assert torch.equal(module[1].scale, scale)
    assert torch.equal(module[1].linear.weight, torch.ones(3, 3))
    assert torch.equal(stream.get_state(), again.get_state())


def test_a_refused_root_module_is_called_the_module() -> None:
    with pytest.raises(ConfigError, match="can't initialise the module, a LSTM"):
        initialise(nn.LSTM(3, 3), rng())
