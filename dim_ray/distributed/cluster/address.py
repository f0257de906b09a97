"""Lets every process of a cluster know where it is: the cluster's address, and the interface that leads to the others.

    ray.init(runtime_env={"worker_process_setup_hook": make_address_hook()})

Ray Train's cleaner frees what the workers of a stopped trial held. It asks Ray's state API, which looks for the one
Ray on the machine, finds two, and gives up; the trials and evaluations that come next would wait for ever.

Gloo listens on the address that the host's own name stands for. On many machines that is 127.0.0.1, where no other node
finds it, and the workers of several nodes fail with connectFullMesh. The interface that carries the node's address in
Ray is one that the others reach.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["INTERFACE_VARIABLES", "make_address_hook"]

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What PyTorch's process groups take the interface from."""


def make_address_hook() -> Callable[[], None]:
    """Returns a function that sets RAY_ADDRESS and `INTERFACE_VARIABLES` in a worker's process.

    Variables of the interface that are set already stay, and so do all of them where no interface has the address.
    """

    # A local function is sent as code: the hook runs before a worker can import anything of ours. Ray ends a worker
    # whose hook fails.
    def note_address() -> None:
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
                    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # exactly this one, and not a prefix
                    return

    return note_address
