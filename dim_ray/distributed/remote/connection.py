"""Reach the job server of a cluster that `ray up` made, over the cluster's own SSH.

    with connect(Path("cluster.yaml")) as client:
        client.list_jobs()

`ray dashboard` forwards a port of this machine to the head's loopback, so none of Ray's ports has to be open.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dim_ray.errors import DimError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["connect"]

_FORWARD = (sys.executable, "-m", "ray.scripts.scripts", "dashboard")  # this environment's Ray, whatever PATH says
_START_SECONDS = 120.0
_END_SECONDS = 5.0


@contextmanager
def connect(cluster_file: Path) -> Iterator[JobSubmissionClient]:
    """Yield Ray's job client for the head; the connection ends with the body.

    Raises:
        DimError: The head doesn't answer, or refuses the token.
    """
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        port = any_socket.getsockname()[1]
    command = [*_FORWARD, str(cluster_file), f"--port={port}"]
    with tempfile.TemporaryFile() as output:
        # In a session without a terminal, because Ctrl-C is for this process only.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        no_proxy = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1"]))
        # Ray prefers an address in the environment to the one that a client is given.
        os.environ |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", "no_proxy": no_proxy}
        try:
            if (client := _wait_for_client(process)) is None:
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines() or ["no answer"]
                raise DimError(
                    f"The head of {cluster_file} can't be reached ({said[-1].strip()}). Is the cluster up? "
                    f"`ray up {cluster_file}` starts it."
                )
            yield client
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(_END_SECONDS)


def _wait_for_client(process: subprocess.Popen[bytes]) -> JobSubmissionClient | None:
    """Return the client once the head answers, or None if the forwarding process ends or no answer comes."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    headers = AuthenticationTokenLoader.instance().get_token_for_http_header(ignore_auth_mode=True)
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            return JobSubmissionClient(headers=headers)
        except ConnectionError:
            time.sleep(0.2)
        except AuthenticationError as error:
            raise DimError(
                "The head refuses the token of ~/.ray/auth_token; use the one that `ray up` sent."
            ) from error
    return None
