"""Lets every process of a cluster know the cluster's address, also where several run on one machine.

    ray.init(runtime_env={"worker_process_setup_hook": make_address_hook()})

Ray Train's cleaner frees what the workers of a stopped trial held. It asks Ray's state API, which looks for the one
Ray on the machine, finds two, and gives up; the trials and evaluations that come next would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["make_address_hook"]


def make_address_hook() -> Callable[[], None]:
    """Returns a function that sets RAY_ADDRESS, in a worker's process, to the cluster that it belongs to."""

    # A local function is sent as code: the hook runs before a worker can import anything of ours.
    def note_address() -> None:
        import os

        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address

    return note_address
