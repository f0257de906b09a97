"""What a process of Ray's holds, and a workspace that uses no more than that.

    work = on_held_device(ray.get(shared))

Ray hides no GPU from a process that holds none.
"""

from __future__ import annotations

import ray

from dim_ray.pipeline.workspace import Workspace, on_device

__all__ = ["held_resources", "on_held_device"]


def held_resources() -> dict[str, float]:
    """Returns the CPUs and GPUs that this process holds, by Ray's names."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    return {"CPU": assigned.get("CPU", 1.0), "GPU": assigned.get("GPU", 0.0)}


def on_held_device(work: Workspace) -> Workspace:
    """Makes this process ready to train, on its GPU where it holds one and on the CPU otherwise.

    Args:
        work: With data on the CPU.
    """
    held = held_resources()
    return on_device(work, int(held["CPU"]), may_use_gpu=held["GPU"] > 0)
