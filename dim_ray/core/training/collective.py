"""Workers of one torch.distributed process group as a Collective.

    torch.distributed.init_process_group("gloo", ...)
    ports = Ports(collective=TorchCollective())

Gradients are averaged explicitly, because the hooks of DistributedDataParallel don't mix with the double backward of
the gradient penalty.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["TorchCollective"]


class TorchCollective:
    """A Collective over an initialised process group, gloo or NCCL.

    Every worker must call the same methods in the same order, with modules of the same structure. The device is that of
    parameters and messages, a GPU for NCCL.
    """

    def __init__(self, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None) -> None:
        self.rank = dist.get_rank(group)
        self.num_workers = dist.get_world_size(group)
        self._device = torch.device(device)
        self._group = group

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the workers, in one flattened all-reduce.

        A missing gradient counts as zeros, and is there afterwards. Frozen parameters are skipped.
        """
        gradients = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        if not gradients:
            return
        # Flattened in the order of their indices, because memory layouts may differ between workers.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self._group)
        flat /= self.num_workers
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        own = tensor.detach().contiguous()
        gathered = [torch.empty_like(own) for _ in range(self.num_workers)]
        dist.all_gather(gathered, own, group=self._group)
        return gathered

    def any(self, flag: bool) -> bool:
        answer = torch.tensor(flag, dtype=torch.int32, device=self._device)
        dist.all_reduce(answer, dist.ReduceOp.MAX, group=self._group)
        return bool(answer)
