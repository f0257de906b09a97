"""Runs a command as a Ray job on the head of a cluster that `ray up` made, and follows it over the cluster's own SSH.

    request = Request(action="run", module="dim_ray.tune", arguments=("--num-trials", "4"), study="3f2a91bc")
    exit_code = call_head(request, Path("cluster.yaml"))

`ray exec` runs `dim_ray.distributed.remote.head` on the head, which submits the job and prints what the job prints.
Nothing here imports Ray, and none of Ray's ports has to be open.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dim_ray.errors import DimError, UsageError

__all__ = ["EXIT_DETACHED", "EXIT_STOPPED", "Request", "call_head"]

EXIT_DETACHED = 130
"""After Ctrl-C, as shells report it: the job isn't finished."""
EXIT_STOPPED = 143
"""Where the job was stopped, as shells report SIGTERM."""

_ON_HEAD = ("python", "-m", "dim_ray.distributed.remote.head")
_RAY = (sys.executable, "-m", "ray.scripts.scripts")  # the Ray of this environment, wherever PATH leads
_NUM_LINES = 2  # of what came before anything of ours: the last ones of an error
_NO_REASONS = (" INFO ", "Command failed:", "Fetched IP")  # what `ray exec` says beside
_END_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the head is asked for. It travels as one argument of a command line."""

    action: Literal["run", "attach", "stop"]
    """Run a command, or follow or stop a job; a study that runs already is followed, and not run twice."""
    module: str
    """Of the command, for example dim_ray.tune."""
    arguments: tuple[str, ...] = ()
    """Of the command, without --config."""
    config_text: str | None = None
    """A configuration file, which the head doesn't have."""
    study: str | None = None
    """Identity of what is run; None where any of the module is meant."""
    job: str | None = None
    """Of the job to follow or stop. Default: the one that runs, or to follow, the latest."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Begins the lines that are for this side, and not a job's output."""

    def to_json(self) -> str:
        """Returns it as text without line breaks."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Request:
        """Reads what `to_json` returned."""
        values = json.loads(text)
        return Request(**{**values, "arguments": tuple(values["arguments"])})


def call_head(request: Request, cluster_file: Path) -> int:
    """Prints what the job prints to stdout, and what becomes of it to stderr, until the job or a Ctrl-C ends it.

    Args:
        request: For the head.
        cluster_file: What `ray up` was given.

    Returns:
        The job's exit code, `EXIT_DETACHED`, or `EXIT_STOPPED`.

    Raises:
        UsageError: There is no such job.
        DimError: The head doesn't answer, or the connection was lost.
    """
    command = [*_RAY, "exec", str(cluster_file), shlex.join([*_ON_HEAD, request.to_json()])]
    # A session and an input of its own, because Ctrl-C is for us alone: ssh would pass it on to the head.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    call = _Call(request, cluster_file)
    try:
        return call.follow(process.stdout)
    except KeyboardInterrupt:
        _tell(call.on_detach())
        return EXIT_DETACHED
    finally:
        _end(process)
        process.stdout.close()


class _Call:
    """One conversation with the head."""

    def __init__(self, request: Request, cluster_file: Path) -> None:
        self._request = request
        self._cluster_file = cluster_file
        self._job: str | None = None
        self._noise: deque[str] = deque(maxlen=_NUM_LINES)  # of ssh, the login shell and `ray exec`

    def follow(self, lines: Iterable[str]) -> int:
        for line in lines:
            line = line.rstrip("\r\n")
            if line.startswith(self._request.mark):
                event = json.loads(line.removeprefix(self._request.mark))
                if "code" in event:
                    return self._finish(**event)
                self._begin(**event)
            elif self._job is not None:
                print(line, flush=True)
            elif line.strip() and not any(words in line for words in (*_NO_REASONS, self._request.mark)):
                self._noise.append(line.strip())  # a command that failed is repeated, with our mark in it
        if self._job is not None:
            raise DimError(
                f"the connection to the cluster's head was lost; job {self._job} goes on there. Come back to it with: "
                f"{self._command('--attach')}"
            )
        said = " / ".join(self._noise) or "it said nothing"
        raise DimError(
            f"the head of {self._cluster_file} can't be asked ({said}); is the cluster up, and the project installed "
            f"there? `ray up {self._cluster_file}` starts it."
        )

    def on_detach(self) -> str:
        if self._job is None:
            return (
                "interrupted before the head answered; whether the job was submitted, this tells: "
                f"{self._command('--attach')}"
            )
        return (
            f"detached; job {self._job} goes on.\n"
            f"come back to it: {self._command('--attach')}\nstop it:         {self._command('--stop')}"
        )

    def _begin(self, job: str, is_new: bool, arguments: str) -> None:
        self._job = job
        if is_new:
            _tell(f"job {job} runs on the head of {self._cluster_file}; Ctrl-C leaves it running")
        elif self._request.action == "run":
            _tell(f"job {job} runs this study already, with {arguments or 'no flags'}; nothing was submitted")

    def _finish(self, code: int, text: str, is_refused: bool) -> int:
        if is_refused:
            raise (UsageError if code == UsageError.exit_code else DimError)(text)
        if text:
            _tell(text)
        return code

    def _command(self, flag: str) -> str:
        words = ["python", "-m", self._request.module, "--cluster", str(self._cluster_file), flag]
        return shlex.join([*words, self._job] if self._job else words)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end(process: subprocess.Popen[Any]) -> None:
    """Ends `ray exec` and its ssh; the shell on the head ends with the connection."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
            return
