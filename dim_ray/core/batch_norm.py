"""Batch norm over the global batch: workers that share a batch normalise by the statistics of all of it.

    share_batch_norm(generator, collective)      # before training; alone it changes nothing

Each worker sees a slice of the batch. With statistics of its own slice, gradients and images would depend on the number
of workers; with those of all slices, W workers compute what one would. That costs a message of 2 C numbers a layer in
each direction.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.core.ports import Collective, SingleWorker

__all__ = ["BatchNorm1d", "BatchNorm2d", "share_batch_norm"]


class BatchNorm1d(nn.BatchNorm1d):
    """nn.BatchNorm1d, whose batch may be shared."""

    collective: Collective = SingleWorker()

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, C)."""
        return super().forward(input) if self.collective.num_workers == 1 else _forward(self, self.collective, input)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, whose batch may be shared."""

    collective: Collective = SingleWorker()

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (B, C, H, W)."""
        return super().forward(input) if self.collective.num_workers == 1 else _forward(self, self.collective, input)


def share_batch_norm(module: nn.Module, collective: Collective) -> None:
    """Lets the batch norms of a module normalise over all workers when they train.

    Args:
        module: Then every worker has to pass it forwards and backwards at the same times, with slices of one size.
        collective: The workers.
    """
    for part in module.modules():
        if isinstance(part, BatchNorm1d | BatchNorm2d):
            part.collective = collective


def _forward(module: BatchNorm1d | BatchNorm2d, collective: Collective, maps: Tensor) -> Tensor:
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    assert module.momentum is not None
    if not module.training:
        return F.batch_norm(
            maps, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
        )
    mean, var = _statistics(maps, collective)
    count = collective.num_workers * maps.numel() // maps.shape[1]
    with torch.no_grad():
        module.num_batches_tracked += 1
        module.running_mean.lerp_(mean, module.momentum)
        module.running_var.lerp_(var * (count / (count - 1)), module.momentum)
    normal: Tensor = _Normalise.apply(maps, mean, var, module.weight, module.bias, module.eps, collective)
    return normal


def _statistics(maps: Tensor, collective: Collective) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of each channel over all workers, (C,) float32."""
    var, mean = torch.var_mean(maps.detach().float(), _reduced(maps), correction=0)
    # By slices, because the mean of squares minus the square of the mean loses digits.
    both = torch.stack([mean, var])
    slices = torch.stack(collective.gather(both))
    mean = slices[:, 0].mean(dim=0)
    return mean, (slices[:, 1] + (slices[:, 0] - mean).square()).mean(dim=0)


def _reduced(maps: Tensor) -> list[int]:
    return [dimension for dimension in range(maps.dim()) if dimension != 1]


class _Normalise(torch.autograd.Function):
    """Normalises by given statistics, whose dependence on all workers' maps its derivative knows."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, workers: Collective
    ) -> Tensor:
        ctx.save_for_backward(maps, mean, (var + eps).rsqrt(), weight)
        ctx.workers = workers
        return F.batch_norm(maps, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, mean, inverse_std, weight = ctx.saved_tensors
        shape = [1, -1] + [1] * (maps.dim() - 2)
        gradient, dims = gradients[0].float(), _reduced(maps)
        normal = (maps.float() - mean.view(shape)) * inverse_std.view(shape)
        for_bias, for_weight = gradient.sum(dims), (gradient * normal).sum(dims)
        slices = torch.stack(ctx.workers.gather(torch.stack([for_bias, for_weight])))
        by_bias, by_weight = slices.sum(dim=0) / (len(slices) * (maps.numel() // maps.shape[1]))
        gradient = gradient - by_bias.view(shape) - normal * by_weight.view(shape)
        for_maps = gradient * (weight * inverse_std).view(shape)
        return for_maps.to(maps.dtype), None, None, for_weight, for_bias, None, None
