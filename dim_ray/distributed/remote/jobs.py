"""Run a command as a Ray job on the head of a cluster that `ray up` made, and follow or stop it.

request = Request(action="run", module="dim_ray.tune", name="tune-3f2a91bc", arguments=("--num-trials", "4"))
exit_code = call_head(request, Path("cluster.yaml"))
"""

from __future__ import annotations

import asyncio
import logging
import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dim_ray.distributed.remote.connection import connect
from dim_ray.errors import DimError, UsageError, listed

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["EXIT_DETACHED", "EXIT_STOPPED", "Action", "Request", "call_head"]

Action = Literal["run", "attach", "stop"]

EXIT_DETACHED = 130
"""After Ctrl-C, as shells report it; the job still runs."""
EXIT_STOPPED = 143
"""If the job was stopped, as shells report SIGTERM."""

_FROM_RAY = ("Running entrypoint for job ", "Runtime env is setting up.")  # lines that Ray writes into a job's log
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the head is asked for."""

    action: Action
    module: str
    """The command's module, for example dim_ray.tune."""
    name: str
    """What the names of its jobs begin with: of any study, "tune", or of one, "tune-3f2a91bc". A number follows."""
    arguments: tuple[str, ...] = ()
    """The command's arguments, without --config."""
    config_text: str | None = None
    """YAML of the configuration file, which the head doesn't have."""
    job: str | None = None
    """Name of the job to follow or stop. Default: the one that runs, or to follow, the latest."""


def call_head(request: Request, cluster_file: Path) -> int:
    """Run, follow or stop a job, with its output on stdout and its state on stderr, until it ends or Ctrl-C.

    Returns:
        The job's exit code, `EXIT_DETACHED`, or `EXIT_STOPPED`.

    Raises:
        UsageError: There is no such job.
        DimError: The head doesn't answer, or the connection was lost.
    """
    import aiohttp

    command = shlex.join(["python", "-m", request.module, "--cluster", str(cluster_file)])
    job = None
    try:
        with connect(cluster_file) as client:
            job = _submit(client, request) if request.action == "run" else _choose(client, request)
            if request.action == "stop":
                client.stop_job(job)
                _wait(client, job, until=time.monotonic() + _PATIENCE_SECONDS)
                _tell(f"job {job} has ended; run the same command again to continue")
                return 0
            asyncio.run(_copy_output(client, job))
            return _exit_code(_wait(client, job))
    except KeyboardInterrupt:
        _tell(
            f"detached; job {job} continues\nfollow it: {command} --attach {job}\nstop it:   {command} --stop {job}"
            if job
            else f"interrupted; find out whether the job runs: {command} --attach"
        )
        return EXIT_DETACHED
    except BrokenPipeError:  # of stdout
        raise
    except (OSError, RuntimeError, aiohttp.ClientError) as error:  # Ray's client lets all three through
        if job is None:
            raise DimError(f"The head refused the request: {error}") from error
        raise DimError(
            f"The connection to the head was lost ({error}). Job {job} continues; follow it: {command} --attach {job}"
        ) from error


def _submit(client: JobSubmissionClient, request: Request) -> str:
    """Return the name of the job that runs the study, a new one unless it runs already."""
    number, until = 0, time.monotonic() + _PATIENCE_SECONDS
    while True:
        running = [job for job in _jobs(client, request) if not job.status.is_terminal()]
        if running:
            job, entrypoint = str(running[-1].submission_id), running[-1].entrypoint
            _tell(f"job {job} runs this study already, and nothing was submitted: {entrypoint}")
            return job
        number += 1
        job = f"{request.name}-{number}"
        try:
            client.submit_job(submission_id=job, entrypoint=_entrypoint(request))
        except RuntimeError as error:
            # Ray takes each name once: of two people who submit at the same moment, one now follows the other's job.
            if "already exists" in str(error):
                continue
            # Just after `ray up` the server answers before the head can run jobs.
            if "No available agent" in str(error) and time.monotonic() < until:
                number -= 1
                time.sleep(_POLL_SECONDS)
                continue
            raise
        _tell(f"job {job} runs on the cluster's head; Ctrl-C leaves it running")
        return job


def _entrypoint(request: Request) -> str:
    """Return the job's shell command, in one line because Ray writes it into the job's log."""
    command = shlex.join(["python", "-m", request.module, *request.arguments])
    if request.config_text is None:
        return command
    import yaml

    config = yaml.safe_load(request.config_text) or {}
    line = yaml.safe_dump(config, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    return f"printf %s {shlex.quote(line)} | {command} --config /dev/stdin"


def _choose(client: JobSubmissionClient, request: Request) -> str:
    """Return the name of the job to follow or stop.

    Raises:
        UsageError: There is none, or to stop, several.
    """
    jobs = {str(job.submission_id): job.status for job in _jobs(client, request)}
    running = [name for name, status in jobs.items() if not status.is_terminal()]
    if request.job:
        candidates = [name for name in jobs if name == request.job]
    else:
        candidates = running if running or request.action == "stop" else list(jobs)
    if not jobs:
        raise UsageError(f"The cluster has no job named {request.name}-*.")
    if not candidates or (request.action == "stop" and len(candidates) > 1):
        known = listed(f"{name} ({status.value.lower()})" for name, status in reversed(jobs.items()))
        raise UsageError(f"--{request.action} needs the name of a job of {request.module}. The cluster has: {known}.")
    return candidates[-1]


def _jobs(client: JobSubmissionClient, request: Request) -> list[JobDetails]:
    """Return the jobs of that name, oldest first."""
    found = [job for job in client.list_jobs() if (job.submission_id or "").startswith(f"{request.name}-")]
    return sorted(found, key=lambda job: job.start_time or 0)


async def _copy_output(client: JobSubmissionClient, job: str) -> None:
    """Print the job's output, from its beginning until its end."""
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it reports the end of the output
    last = ""
    async for text in client.tail_job_logs(job):
        for line in text.splitlines(keepends=True):
            if not any(words in line for words in _FROM_RAY):
                last = line
                print(line, end="", flush=True)
    if last and not last.endswith("\n"):
        print(flush=True)


def _wait(client: JobSubmissionClient, job: str, until: float = math.inf) -> JobDetails:
    while not (details := client.get_job_info(job)).status.is_terminal():
        if time.monotonic() > until:
            raise DimError(f"Job {job} was told to stop, and still runs; try again.")
        time.sleep(_POLL_SECONDS)
    return details


def _exit_code(details: JobDetails) -> int:
    """Return the exit code of a job that has ended, and say why if it didn't end by itself."""
    code: int | None = details.driver_exit_code
    if details.status == "STOPPED":
        _tell(f"job {details.submission_id} was stopped; run the same command again to continue")
        return EXIT_STOPPED
    if code is None or code < 0:  # it never began, or was killed
        _tell(f"job {details.submission_id} failed: {details.message}")
        return 1 if code is None else 128 - code
    return code


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
