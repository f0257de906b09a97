"""Batch norm over the global batch, whose slices several workers hold.

    share_batch_norm(generator, collective)      # before training; with one worker it changes nothing

With the statistics of all slices, W workers compute what one would. Each layer costs a message of 2 C numbers in each
direction.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dim_ray.core.training.ports import Collective, SingleWorker

__all__ = ["BatchNorm1d", "BatchNorm2d", "share_batch_norm"]


class _Shared(nn.modules.batchnorm._BatchNorm):
    collective: Collective = SingleWorker()

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.collective.num_workers == 1:
            return super().forward(input)
        return _normalise_globally(self, input)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the workers: a copy doesn't share its batches."""
        return {name: value for name, value in self.__dict__.items() if name != "collective"}


class BatchNorm1d(_Shared, nn.BatchNorm1d):
    """nn.BatchNorm1d of (B, C), whose batch may be shared."""


class BatchNorm2d(_Shared, nn.BatchNorm2d):
    """nn.BatchNorm2d of (B, C, H, W), whose batch may be shared."""


def share_batch_norm(module: nn.Module, collective: Collective) -> None:
    """Let the batch norms of a module normalise over all workers when they train.

    From then on the workers have to run the module's passes in step, with slices of one size.
    """
    for part in module.modules():
        if isinstance(part, _Shared):
            part.collective = collective


def _normalise_globally(module: _Shared, maps: Tensor) -> Tensor:
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    assert module.momentum is not None
    collective = module.collective
    mean, var = _statistics(module, maps)
    count = collective.num_workers * maps.numel() // maps.shape[1]
    with torch.no_grad():
        module.num_batches_tracked += 1
        module.running_mean.lerp_(mean, module.momentum)
        module.running_var.lerp_(var * (count / (count - 1)), module.momentum)
    normal: Tensor = _Normalise.apply(maps, mean, var, module.weight, module.bias, module.eps, collective)
    return normal


@torch.no_grad()
def _statistics(module: _Shared, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel over all workers, (C,) float32."""
    # On channels last this kernel, whose output isn't needed, is 20 times as fast as torch.var_mean.
    _, mean, inverse_std = torch.native_batch_norm(maps, module.weight, module.bias, None, None, True, 0.0, module.eps)
    slices = torch.stack(module.collective.gather(torch.stack([mean, inverse_std.square().reciprocal() - module.eps])))
    mean = slices[:, 0].mean(dim=0)
    # By slices, because the mean of squares minus the square of the mean loses digits.
    return mean, (slices[:, 1] + (slices[:, 0] - mean).square()).mean(dim=0)


class _Normalise(torch.autograd.Function):
    """Normalise by given statistics; the derivative knows that they depend on all workers' maps."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float, workers: Collective
    ) -> Tensor:
        ctx.save_for_backward(maps, mean, (var + eps).rsqrt(), weight)
        ctx.eps, ctx.workers = eps, workers
        return F.batch_norm(maps, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, mean, inverse_std, weight = ctx.saved_tensors
        # First as if this worker's slice were all; the correction is linear in the maps, channel by channel.
        for_maps, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], maps, weight, None, None, mean, inverse_std, True, ctx.eps, [True, True, True]
        )
        sums = torch.stack([for_bias, for_weight])
        excess = (sums - torch.stack(ctx.workers.gather(sums)).mean(dim=0)) / (maps.numel() // maps.shape[1])
        scale, slope = weight * inverse_std, inverse_std * excess[1]
        shape = [1, -1] + [1] * (maps.dim() - 2)
        correction = torch.addcmul(
            (scale * (excess[0] - mean * slope)).view(shape), maps.float(), (scale * slope).view(shape)
        )
        return (for_maps + correction).to(maps.dtype), None, None, for_weight, for_bias, None, None
