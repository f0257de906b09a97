"""Spectral norm (Miyato et al., arXiv 1802.05957) of all weights of a network at once: W / sigma(W).

    normalise([layer, head], rng)
    iterate([layer, head])               # once for each change of the weights
    with divided([layer, head]):
        head(layer(images))

sigma = |W^T u| is the largest singular value once u is its left vector, which a power iteration follows. PyTorch's own
takes a weight at a time, and iterates in every pass. The names in the state are PyTorch's; its `_v` isn't needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["Part", "divided", "iterate", "normalise"]

Part = nn.Conv2d | nn.Linear

_FIRST_ITERATIONS = 15  # PyTorch's number


def normalise(parts: Sequence[Part], rng: torch.Generator) -> None:
    """Divide the weights of layers, in place, with first vectors of a random stream."""
    for part in parts:
        u = torch.randn(len(part.weight), generator=rng, device=rng.device)
        parametrize.register_parametrization(part, "weight", _Spectral(F.normalize(u, dim=0)))
    for _ in range(_FIRST_ITERATIONS):
        iterate(parts)


@torch.no_grad()
def iterate(parts: Sequence[Part]) -> None:
    """Take one step of the power iteration."""
    if not parts:
        return
    matrices, vectors, norms = _stack(parts)
    products = torch.bmm(torch.bmm(vectors, matrices), matrices.mT)
    found = F.normalize(products, dim=2).squeeze(1)
    torch._foreach_copy_([norm._u for norm in norms], [u[: len(n._u)] for u, n in zip(found, norms, strict=True)])


@contextmanager
def divided(parts: Sequence[Part]) -> Iterator[None]:
    """Divide all weights together, for one pass."""
    if not parts:
        yield
        return
    matrices, vectors, norms = _stack(parts)
    device = matrices.device.type
    with torch.autocast(device, enabled=False):
        sigmas = torch.linalg.vector_norm(torch.bmm(vectors, matrices), dim=2, keepdim=True)
        quotients = matrices / sigmas
    if torch.is_autocast_enabled(device):  # once, instead of one by one
        quotients = quotients.to(torch.get_autocast_dtype(device))
    for norm, part, quotient in zip(norms, parts, quotients.unbind(), strict=True):
        norm.quotient = _as_weight(quotient, _weight_and_norm(part)[0])
    try:
        yield
    finally:
        for norm in norms:
            norm.quotient = None


class _Spectral(nn.Module):
    """W / sigma(W) of one layer: what `divided` left, or its own."""

    _u: Tensor

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.register_buffer("_u", u)
        self.quotient: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if self.quotient is not None:
            return self.quotient
        sigma: Tensor = torch.linalg.vector_norm(self._u @ _as_matrix(weight))
        return weight / sigma

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}_v", None)  # of PyTorch's, in what older versions stored
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _stack(parts: Sequence[Part]) -> tuple[Tensor, Tensor, list[_Spectral]]:
    """Return weights (P, rows, columns) and their vectors u (P, 1, rows), filled up with zeros, and the norms."""
    weights, norms = zip(*map(_weight_and_norm, parts), strict=True)
    matrices = [_as_matrix(weight) for weight in weights]
    rows, columns = (max(sizes) for sizes in zip(*(matrix.shape for matrix in matrices), strict=True))
    filled = [_fill(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0])) for matrix in matrices]
    vectors = [_fill(norm._u, (0, rows - len(norm._u))) for norm in norms]
    return torch.stack(filled), torch.stack(vectors)[:, None], list(norms)


def _weight_and_norm(part: Part) -> tuple[Tensor, _Spectral]:
    """Return a layer's weight as it is before it's divided, and what divides it."""
    parametrizations: Any = part.parametrizations
    return parametrizations.weight.original, parametrizations.weight[0]


def _fill(values: Tensor, widths: tuple[int, ...]) -> Tensor:
    return F.pad(values, widths) if any(widths) else values


def _as_matrix(weight: Tensor) -> Tensor:
    """Return a weight as (rows, columns), in the order of channels last: no copy where it is stored so."""
    return weight.movedim(1, -1).flatten(1)


def _as_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """Return a filled-up matrix in the shape of its weight."""
    rows, channels, *kernel = weight.shape
    cut: Tensor = matrix[:rows, : weight[0].numel()].unflatten(1, (*kernel, channels))
    return cut.movedim(-1, 1)
