"""A workspace that uses no more than what a Ray process holds.

    work = on_held_device(ray.get(shared))

Ray doesn't hide GPUs from a process that holds none.
"""

from __future__ import annotations

import ray
import torch

from dim_ray.pipeline.workspace import Workspace, on_device

__all__ = ["on_held_device"]


def on_held_device(work: Workspace, device: torch.device | str = "cuda") -> Workspace:
    """Return a workspace whose data lie on the GPU that this process holds, if any; limit PyTorch to its cores.

    `device` says which of the visible GPUs that is; Ray shows a process of a task or an actor only its own.
    """
    held = ray.get_runtime_context().get_assigned_resources()
    return on_device(work, int(held.get("CPU", 1.0)), gpus=held.get("GPU", 0.0), device=device)
