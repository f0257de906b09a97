"""Resources that a Ray process holds, and a workspace that uses no more than these.

    work = on_held_device(ray.get(shared))

Ray doesn't hide GPUs from a process that holds none.
"""

from __future__ import annotations

import ray
import torch

from dim_ray.pipeline.workspace import Workspace, on_device

__all__ = ["held_resources", "on_held_device"]


def held_resources() -> dict[str, float]:
    """Return the CPUs and GPUs that this process holds, by Ray's names."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    return {"CPU": assigned.get("CPU", 1.0), "GPU": assigned.get("GPU", 0.0)}


def on_held_device(work: Workspace, device: torch.device | str = "cuda") -> Workspace:
    """Return a workspace whose data lie on the GPU that this process holds, if any; limit PyTorch to its cores.

    `device` says which of the visible GPUs that is; Ray shows a process of a task or an actor only its own.
    """
    held = held_resources()
    return on_device(work, int(held["CPU"]), gpus=held["GPU"], device=device)
