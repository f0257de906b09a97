"""The head's side of `dim_ray.distributed.remote.laptop`: submits a command as a Ray job, follows it, or stops it.

    python -m dim_ray.distributed.remote.head '{"action": "run", "module": "dim_ray.tune", ...}'

A job is submitted under a name of its study and a number, which Ray gives once alone: of two people who submit a study
at the same moment, one runs it and the other follows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from dim_ray.distributed.remote.laptop import EXIT_STOPPED, Request
from dim_ray.errors import DimError, UsageError

__all__ = ["answer"]

_MODULE, _STUDY, _ARGUMENTS = "dim_ray_module", "dim_ray_study", "dim_ray_arguments"  # in a job's metadata
_NOT_OF_THE_JOB = ("Running entrypoint for job ", "Runtime env is setting up.")  # what Ray writes into a job's log
_TAKEN = "already exists"
_NOT_READY = "No available agent"  # of a head that has just been started
_POLL_SECONDS = 0.5
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0


def answer(request: Request, write: Callable[[str], object]) -> None:
    """Does what is asked for, and writes a job's output and the marked lines.

    Args:
        request: From the laptop.
        write: Takes text.
    """

    def mark(**event: object) -> None:
        write(f"{request.mark}{json.dumps(event)}\n")

    try:
        client = JobSubmissionClient()  # at RAY_ADDRESS, or on this machine
        code, text = _answer(client, request, write, mark)
        mark(code=code, text=text, is_refused=False)
    except DimError as error:
        mark(code=error.exit_code, text=str(error), is_refused=True)
    except (ConnectionError, RuntimeError) as error:
        mark(code=1, text=f"Ray's jobs can't be reached on the head ({_brief(error)}).", is_refused=True)


def _answer(
    client: JobSubmissionClient, request: Request, write: Callable[[str], object], mark: Callable[..., None]
) -> tuple[int, str]:
    """Returns an exit code and a line for a person."""
    is_new = False
    if request.action == "run":
        job, is_new = _submit(client, request)
    else:
        job = _choose(client, request)
    if request.action == "stop":
        return _stop(client, job)
    details = client.get_job_info(job)
    mark(job=job, is_new=is_new, arguments=(details.metadata or {}).get(_ARGUMENTS, ""))
    asyncio.run(_copy_output(client, job, write))
    return _wait(client, job)


def _submit(client: JobSubmissionClient, request: Request) -> tuple[str, bool]:
    """Returns the job that runs the study, and whether it is new."""
    stem = f"{request.module.rpartition('.')[2]}-{request.study}"
    entrypoint = None
    number, until = 1, time.monotonic() + _START_SECONDS
    while True:
        running = [job for job in _jobs(client, request) if not job.status.is_terminal()]
        if running:
            return str(running[-1].submission_id), False
        job = f"{stem}-{number}"
        entrypoint = entrypoint or _entrypoint(request)
        try:
            client.submit_job(
                submission_id=job,
                entrypoint=entrypoint,
                metadata={
                    _MODULE: request.module,
                    _STUDY: str(request.study),
                    _ARGUMENTS: shlex.join(request.arguments),
                },
            )
            return job, True
        except RuntimeError as error:
            if _TAKEN in str(error):
                number += 1
            elif _NOT_READY in str(error) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            else:
                raise


def _entrypoint(request: Request) -> str:
    """Returns the command of a job, whose configuration is written to a file."""
    words = [sys.executable, "-m", request.module]
    if request.config_text is not None:
        handle, path = tempfile.mkstemp(prefix="dim_ray-", suffix=".yaml")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(request.config_text)
        words += ["--config", path]
    return shlex.join([*words, *request.arguments])


def _choose(client: JobSubmissionClient, request: Request) -> str:
    """Returns the job that is meant.

    Raises:
        UsageError: There is none, or to stop, several.
    """
    jobs = _jobs(client, request)
    names = ", ".join(f"{job.submission_id} ({job.status.value.lower()})" for job in jobs) or "none"
    if request.job is not None:
        if request.job not in [job.submission_id for job in jobs]:
            raise UsageError(f"there is no job {request.job} of {request.module} on the cluster; there are: {names}.")
        return request.job
    running = [job for job in jobs if not job.status.is_terminal()]
    if request.action == "stop" and len(running) != 1:
        raise UsageError(f"{len(running)} jobs of {request.module} run on the cluster; name one with --stop: {names}.")
    if not jobs:
        raise UsageError(
            f"no job of {request.module} is known on the cluster; without --attach the command submits one."
        )
    return str((running or jobs)[-1].submission_id)


def _jobs(client: JobSubmissionClient, request: Request) -> list[JobDetails]:
    """Returns jobs of ours, the oldest first."""
    wanted = {_MODULE: request.module} | ({} if request.study is None else {_STUDY: request.study})
    found = [job for job in client.list_jobs() if job.submission_id and wanted.items() <= (job.metadata or {}).items()]
    return sorted(found, key=lambda job: job.start_time or 0)


def _stop(client: JobSubmissionClient, job: str) -> tuple[int, str]:
    client.stop_job(job)
    until = time.monotonic() + _STOP_SECONDS
    while not client.get_job_status(job).is_terminal():
        if time.monotonic() > until:
            raise DimError(f"job {job} was told to stop, and still runs after {_STOP_SECONDS:g} s.")
        time.sleep(_POLL_SECONDS)
    return 0, f"job {job} has ended; the command that began it goes on where it was"


async def _copy_output(client: JobSubmissionClient, job: str, write: Callable[[str], object]) -> None:
    """Writes all that the job prints, from its beginning until its end."""
    is_whole = True
    async for text in client.tail_job_logs(job):
        for line in text.splitlines(keepends=True):
            if not any(words in line for words in _NOT_OF_THE_JOB):
                write(line)
                is_whole = line.endswith("\n")
    if not is_whole:
        write("\n")


def _wait(client: JobSubmissionClient, job: str) -> tuple[int, str]:
    """Returns the exit code of a job that has ended, or is about to, and what there is to say about it."""
    while not (details := client.get_job_info(job)).status.is_terminal():
        time.sleep(_POLL_SECONDS)
    code = details.driver_exit_code
    if details.status == JobStatus.STOPPED:
        return EXIT_STOPPED, f"job {job} was stopped; the command that began it goes on where it was"
    if code is None:  # Ray gave up on it
        return (0, "") if details.status == JobStatus.SUCCEEDED else (1, f"job {job} failed: {_brief(details.message)}")
    if code < 0:
        return 128 - code, f"job {job} was killed by signal {-code}"
    return int(code), ""


def _brief(said: object) -> str:
    lines = str(said).strip().splitlines() or ["no reason was given"]
    return lines[0].rstrip(".")


def _main(argv: Sequence[str]) -> None:
    logging.disable(logging.WARNING)  # what Ray has to say would lie between the job's lines

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    answer(Request.from_json(argv[0]), write)


if __name__ == "__main__":
    _main(sys.argv[1:])
