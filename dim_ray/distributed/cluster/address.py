"""Environment of Ray's worker processes: the cluster's address, and the network interface that other nodes reach.

    ray.init(runtime_env={"worker_process_setup_hook": make_address_hook()})

RAY_ADDRESS is for Ray Train's cleaner, which frees what the workers of a stopped trial held. It uses Ray's state API,
which gives up if it finds two Rays on the machine, and later trials would wait forever.

The interface is for gloo, which listens on the address of the host's own name. On many machines that is 127.0.0.1, and
workers on several nodes fail with connectFullMesh.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["INTERFACE_VARIABLES", "make_address_hook"]

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables from which PyTorch's process groups take the interface."""


def make_address_hook() -> Callable[[], None]:
    """Return a function that sets RAY_ADDRESS and `INTERFACE_VARIABLES` in a worker's process.

    The interface is the one with the node's address in Ray. Variables that are set already stay.
    """

    # Ray sends a local function as code: a worker runs the hook before it can import our modules. If it fails, Ray ends
    # the worker.
    def set_address() -> None:
        import os
        import socket
        import struct
        import sys

        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        if sys.platform != "linux":
            return
        import fcntl

        ask_address = 0x8915  # SIOCGIFADDR
        address = ray.util.get_node_ip_address()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for _, name in socket.if_nameindex():
                try:
                    answer = fcntl.ioctl(any_socket, ask_address, struct.pack("256s", name.encode()))
                except OSError:  # it has no IPv4 address
                    continue
                if socket.inet_ntoa(answer[20:24]) == address:
                    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
                    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # "=": the exact name, not a prefix
                    return

    return set_address
