"""What a person is told when a worker's process dies too often.

raise worker_died("teacher 3", error) from error
"""

from __future__ import annotations

from dim_ray.errors import DimError

__all__ = ["worker_died"]


def worker_died(name: str, error: Exception) -> DimError:
    """Returns the error of a job that was started again, and whose process died again.

    Args:
        name: Of the job.
        error: Ray's.
    """
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DimError(
        f"the process of {name} died, and again when it was started anew ({reason.rstrip('.')}). Most often the memory "
        "is too small: run fewer side by side with study.max_concurrent or more cores for each with "
        "study.cpus_per_worker. What is finished is kept; the same command goes on. Details are in the log."
    )
