from __future__ import annotations

import json
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus

from dim_ray.distributed.remote import head
from dim_ray.distributed.remote.head import answer
from dim_ray.distributed.remote.laptop import Request

RUN = Request(action="run", module="dim_ray.tune", arguments=("--study", "a b"), study="3f2a91bc")
OUTPUT = (
    "2026-11-22 08:00:00,000\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    "Running entrypoint for job tune-3f2a91bc-1: python\n",
    "[1 s] trials: star",
    "ted\n[2 s] trials: finished",
)


@dataclass
class Job:
    submission_id: str
    entrypoint: str = "python"
    metadata: dict[str, str] | None = None
    status: JobStatus = JobStatus.RUNNING
    driver_exit_code: int | None = None
    message: str | None = None
    start_time: int = 0


@dataclass
class Client:
    """Ray's, without Ray: jobs end when their output was read."""

    ends: tuple[JobStatus, int | None] = (JobStatus.SUCCEEDED, 0)
    jobs: list[Job] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)  # submitted by another in the same moment
    errors: list[str] = field(default_factory=list)  # of the next submissions

    def list_jobs(self) -> Sequence[Job]:
        return list(self.jobs)

    def submit_job(self, *, submission_id: str, entrypoint: str, metadata: dict[str, str]) -> str:
        if self.errors:
            raise RuntimeError(self.errors.pop())
        if submission_id in self.taken:
            self.jobs.append(Job(submission_id, metadata=metadata))
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        if submission_id in [job.submission_id for job in self.jobs]:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        self.jobs.append(Job(submission_id, entrypoint, metadata, start_time=len(self.jobs)))
        return submission_id

    def get_job_info(self, job_id: str) -> Job:
        return next(job for job in self.jobs if job.submission_id == job_id)

    def get_job_status(self, job_id: str) -> JobStatus:
        return self.get_job_info(job_id).status

    def stop_job(self, job_id: str) -> bool:
        self.get_job_info(job_id).status = JobStatus.STOPPED
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for text in OUTPUT:
            yield text
        job = self.get_job_info(job_id)
        if not job.status.is_terminal():
            job.status, job.driver_exit_code = self.ends


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    fake = Client()
    monkeypatch.setattr(head, "JobSubmissionClient", lambda: fake)
    return fake


def ask(request: Request) -> tuple[str, list[dict[str, Any]]]:
    """Returns the output, and the marked lines."""
    written: list[str] = []
    answer(request, written.append)
    lines = "".join(written).splitlines()
    marked = [json.loads(line.removeprefix(request.mark)) for line in lines if line.startswith(request.mark)]
    return "\n".join(line for line in lines if not line.startswith(request.mark)), marked


def ours(name: str, status: JobStatus = JobStatus.RUNNING, *, study: str = "3f2a91bc", start_time: int = 0) -> Job:
    metadata = {"dim_ray_module": "dim_ray.tune", "dim_ray_study": study, "dim_ray_arguments": "--num-trials 4"}
    return Job(name, metadata=metadata, status=status, driver_exit_code=0, start_time=start_time)


def test_command_is_submitted_and_followed_to_its_end(client: Client) -> None:
    output, [begin, end] = ask(RUN)
    [job] = client.jobs
    assert job.submission_id == "tune-3f2a91bc-1"
    assert shlex.split(job.entrypoint) == [sys.executable, "-m", "dim_ray.tune", "--study", "a b"]
    assert output == "[1 s] trials: started\n[2 s] trials: finished"  # without what Ray writes into it
    assert begin == {"job": "tune-3f2a91bc-1", "is_new": True, "arguments": "--study 'a b'"}
    assert end == {"code": 0, "text": "", "is_refused": False}


def test_configuration_lies_in_a_file_of_the_head(client: Client) -> None:
    ask(Request(action="run", module="dim_ray.tune", study="s", config_text="pool:\n  size: 5\n", arguments=("--x",)))
    *_, flag, path, last = shlex.split(client.jobs[0].entrypoint)
    assert (flag, last) == ("--config", "--x")
    assert Path(path).read_text() == "pool:\n  size: 5\n"
    Path(path).unlink()


def test_study_that_runs_is_followed_and_not_run_twice(client: Client) -> None:
    client.jobs = [ours("tune-3f2a91bc-1")]
    _, [begin, _] = ask(RUN)
    assert len(client.jobs) == 1
    assert begin == {"job": "tune-3f2a91bc-1", "is_new": False, "arguments": "--num-trials 4"}


@pytest.mark.parametrize(
    "job",
    [
        ours("tune-3f2a91bc-1", JobStatus.FAILED),
        ours("tune-3f2a91bc-1", JobStatus.STOPPED),
        ours("tune-77777777-1", study="77777777"),
        Job("raysubmit_1"),
        Job("raysubmit_2", metadata={"owner": "somebody"}),
    ],
)
def test_other_or_ended_jobs_are_no_reason_not_to_run(client: Client, job: Job) -> None:
    client.jobs = [job]
    _, [begin, _] = ask(RUN)
    assert begin["is_new"]
    assert len(client.jobs) == 2


def test_of_two_that_submit_at_the_same_moment_one_follows_the_other(client: Client) -> None:
    client.taken = ["tune-3f2a91bc-1"]
    _, [begin, _] = ask(RUN)
    assert (begin["job"], begin["is_new"]) == ("tune-3f2a91bc-1", False)
    assert len(client.jobs) == 1


def test_head_that_has_just_been_started_is_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_POLL_SECONDS", 0.0)
    client.errors = ["Request failed with status code 500: No available agent to submit job"] * 3
    _, [begin, end] = ask(RUN)
    assert (begin["job"], end["code"]) == ("tune-3f2a91bc-1", 0)


def test_submission_that_fails_is_refused_with_the_reason(client: Client) -> None:
    client.errors = ["Request failed with status code 500: the disk is full.\nand more"]
    _, [end] = ask(RUN)
    assert (end["code"], end["is_refused"]) == (1, True)
    assert "the disk is full" in end["text"]


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "code", "words"),
    [
        (JobStatus.SUCCEEDED, 0, 0, ""),
        (JobStatus.FAILED, 1, 1, ""),
        (JobStatus.FAILED, 2, 2, ""),
        (JobStatus.FAILED, -9, 137, "killed by signal 9"),
        (JobStatus.FAILED, None, 1, "the actor died"),
        (JobStatus.STOPPED, None, 143, "was stopped"),
    ],
)
def test_end_of_the_job_is_told(
    client: Client, status: JobStatus, driver_exit_code: int | None, code: int, words: str
) -> None:
    client.ends = (status, driver_exit_code)
    client.jobs = [ours("tune-3f2a91bc-1")]
    client.jobs[0].message = "the actor died.\nand more"
    _, [_, end] = ask(RUN)
    assert end["code"] == code
    assert words in end["text"]
    assert bool(words) == bool(end["text"])
    assert not end["is_refused"]


def test_attaching_takes_the_job_that_runs_before_a_later_one_that_has_ended(client: Client) -> None:
    client.jobs = [ours("tune-1", start_time=5), ours("tune-2", JobStatus.FAILED, start_time=9)]
    assert ask(Request(action="attach", module="dim_ray.tune"))[1][0]["job"] == "tune-1"


def test_attaching_takes_the_latest_where_none_runs(client: Client) -> None:
    client.jobs = [ours("tune-2", JobStatus.SUCCEEDED, start_time=9), ours("tune-1", JobStatus.FAILED, start_time=5)]
    output, [begin, end] = ask(Request(action="attach", module="dim_ray.tune"))
    assert (begin["job"], end["code"]) == ("tune-2", 0)
    assert "trials: started" in output


def test_attaching_takes_the_job_that_is_named_or_of_the_study(client: Client) -> None:
    client.jobs = [ours("tune-a-1", study="a"), ours("tune-b-1", study="b", start_time=5)]
    assert ask(Request(action="attach", module="dim_ray.tune", job="tune-a-1"))[1][0]["job"] == "tune-a-1"
    assert ask(Request(action="attach", module="dim_ray.tune", study="a"))[1][0]["job"] == "tune-a-1"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(action="attach", module="dim_ray.distill"), "no job of dim_ray.distill is known"),
        (Request(action="attach", module="dim_ray.tune", job="tune-7"), "there is no job tune-7"),
        (Request(action="stop", module="dim_ray.distill"), "0 jobs of dim_ray.distill run"),
        (Request(action="stop", module="dim_ray.tune"), "2 jobs of dim_ray.tune run"),
    ],
)
def test_job_that_is_not_there_or_not_the_only_one_is_refused(client: Client, request_: Request, words: str) -> None:
    client.jobs = [ours("tune-1"), ours("tune-2")]
    _, [refusal] = ask(request_)
    assert (refusal["code"], refusal["is_refused"]) == (2, True)
    assert words in refusal["text"]
    assert [job.status for job in client.jobs] == [JobStatus.RUNNING] * 2


def test_job_is_stopped(client: Client) -> None:
    client.jobs = [ours("tune-1"), ours("tune-0", JobStatus.SUCCEEDED)]
    _, [end] = ask(Request(action="stop", module="dim_ray.tune"))
    assert (end["code"], end["is_refused"]) == (0, False)
    assert client.jobs[0].status == JobStatus.STOPPED


def test_head_without_ray_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ConnectionError("Could not find any running Ray instance.\nand more")

    monkeypatch.setattr(head, "JobSubmissionClient", fail)
    _, [end] = ask(RUN)
    assert (end["code"], end["is_refused"]) == (1, True)
    assert end["text"] == "Ray's jobs can't be reached on the head (Could not find any running Ray instance)."
