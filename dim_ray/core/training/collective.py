"""Workers of one torch.distributed process group as a Collective.

    torch.distributed.init_process_group("gloo", ...)
    collective = TorchCollective()
    train_prior(pair, config, dataset, reporter=..., checkpointer=..., collective=collective)

Gradients are averaged explicitly, because the hooks of DistributedDataParallel don't mix with the double backward of
the gradient penalty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["TorchCollective"]


class TorchCollective:
    """A Collective over an initialised process group, gloo or NCCL.

    Every worker calls the same methods in the same order, with modules of the same structure.

    Args:
        device: Where the group's tensors are: a GPU for NCCL. Parameters are expected there.
        group: The workers. Default: all of them.
    """

    def __init__(self, device: torch.device | str = "cpu", group: dist.ProcessGroup | None = None) -> None:
        self.rank = dist.get_rank(group)
        self.num_workers = dist.get_world_size(group)
        self._device = torch.device(device)
        self._group = group

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the workers, in one flattened all-reduce.

        A parameter without a gradient counts as zeros on its worker, and has one afterwards. Frozen parameters are
        left alone.
        """
        gradients = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        if gradients:
            self._average(gradients)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors of all workers in the order of rank, without gradients."""
        own = tensor.detach().contiguous()
        gathered = [torch.empty_like(own) for _ in range(self.num_workers)]
        dist.all_gather(gathered, own, group=self._group)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any worker; every worker gets the same answer."""
        answer = torch.tensor(flag, dtype=torch.int32, device=self._device)
        dist.all_reduce(answer, dist.ReduceOp.MAX, group=self._group)
        return bool(answer)

    @torch.no_grad()
    def _average(self, tensors: Sequence[Tensor]) -> None:
        """Averages tensors in place; their memory layouts may differ from worker to worker."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=self._group)
        flat /= self.num_workers
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
