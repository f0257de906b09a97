"""Initial weights as a function of one random stream.

    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    network.to_empty(device=rng.device)
    initialise(network, rng)

Distributions are PyTorch's defaults, and for the same seed so are the numbers.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dim_ray.core.networks.batch_norm import BatchNorm1d, BatchNorm2d
from dim_ray.errors import ConfigError, nearest

__all__ = ["OwnWeights", "initialise"]

_LEAKY_SLOPE = math.sqrt(5)  # torch.nn's own: kaiming_uniform_'s bound is then 1 / sqrt(fan_in), as the bias's

_UNIFORM = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNorm1d, BatchNorm2d)
_NORMS = (*_BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)
_KNOWN = (*_UNIFORM, *_NORMS, nn.Embedding, nn.MultiheadAttention)


@runtime_checkable
class OwnWeights(Protocol):
    """A module with direct parameters, or with other distributions than PyTorch's defaults."""

    def initialise_weights(self, rng: torch.Generator) -> None:
        """Set every parameter and buffer of the module and its submodules, in place."""


@torch.no_grad()
def initialise(module: nn.Module, rng: torch.Generator) -> None:
    """Set every parameter and buffer of a module and its submodules, in place.

    Linear, convolutional, embedding and attention layers get PyTorch's default distributions; norms get scale 1, shift
    0 and fresh statistics; `OwnWeights` draw their own. The module is on the device of `rng`, and its memory may be
    uninitialised. Torch's global random state is neither read nor changed.

    Raises:
        ConfigError: A submodule with direct parameters or buffers is of no known type. A subclass of a known type isn't
            known, because it may hold more.
    """
    whole = [part for part in module.modules() if isinstance(part, (nn.MultiheadAttention, OwnWeights))]
    inside = {id(child) for part in whole for child in part.modules() if child is not part}
    owners = [
        (name, part)
        for name, part in module.named_modules()
        if (part._parameters or part._buffers or isinstance(part, OwnWeights)) and id(part) not in inside
    ]
    for name, part in owners:  # before the first draw: a refused module is left as it was
        if type(part) not in _KNOWN and not isinstance(part, OwnWeights):
            kind, names = type(part).__name__, list(dict.fromkeys(known.__name__ for known in _KNOWN))
            raise ConfigError(
                f"can't initialise {repr(name) if name else 'the module'}, a {kind} with parameters or buffers; "
                f"{nearest(kind, names)} Build the network of these, or teach initialise() the new one."
            )
    for _, part in owners:
        if isinstance(part, OwnWeights):
            part.initialise_weights(rng)
        elif isinstance(part, nn.MultiheadAttention):
            _initialise_attention(part, rng)
        elif isinstance(part, _UNIFORM):
            _initialise_uniform(part.weight, part.bias, rng)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, generator=rng)
        elif isinstance(part, _NORMS):
            if isinstance(part, _BATCH_NORMS):
                part.reset_running_stats()
            if part.weight is not None:
                nn.init.ones_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _initialise_uniform(weight: torch.Tensor, bias: torch.Tensor | None, rng: torch.Generator) -> None:
    nn.init.kaiming_uniform_(weight, a=_LEAKY_SLOPE, generator=rng)
    if bias is not None:
        bound = 1 / math.sqrt(weight[0].numel())  # fan_in, as kaiming_uniform_ counts it
        nn.init.uniform_(bias, -bound, bound, generator=rng)


def _initialise_attention(part: nn.MultiheadAttention, rng: torch.Generator) -> None:
    _initialise_uniform(part.out_proj.weight, part.out_proj.bias, rng)  # drawn first by the constructor, too
    nn.init.xavier_uniform_(part.in_proj_weight, generator=rng)
    for bias in (part.in_proj_bias, part.out_proj.bias):
        if bias is not None:
            nn.init.zeros_(bias)
