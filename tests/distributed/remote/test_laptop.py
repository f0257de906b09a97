from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dim_ray.distributed.remote import laptop
from dim_ray.distributed.remote.laptop import EXIT_DETACHED, Request, call_head
from dim_ray.errors import DimError, UsageError
from tests.helpers.runs import marked_processes

# What `ray exec FILE COMMAND` does with a command, with the login shell of this machine in the place of ssh's.
RAY_EXEC = """
import shlex, subprocess, sys
verb, file, command = sys.argv[1:]
print("Fetched IP: 192.0.2.1")
words = f"source ~/.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({command})"
code = subprocess.run(["sh", "-c", " ".join(["bash", "--login", "-c", "-i", shlex.quote(words)])]).returncode
if code:
    sys.exit(f"Error: Command failed:\\n\\n  ssh -tt {command}\\n")
"""
HEAD = """
import json, os, sys, time
request = json.loads(sys.argv[1])
def mark(**event): print(request["mark"] + json.dumps(event), flush=True)
"""
BEGINS = "mark(job='tune-1', is_new=True, arguments='')\n"

Answer = Callable[[str], int]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answer:
    """Returns what asks a head that runs this code."""
    (tmp_path / "ray.py").write_text(RAY_EXEC)
    monkeypatch.setattr(laptop, "_RAY", (sys.executable, str(tmp_path / "ray.py")))
    monkeypatch.setattr(laptop, "_ON_HEAD", (sys.executable, str(tmp_path / "head.py")))

    def ask(code: str, request: Request | None = None) -> int:
        (tmp_path / "head.py").write_text(HEAD + code)
        return call_head(request or Request(action="run", module="dim_ray.tune"), Path("my cluster.yaml"))

    return ask


def test_output_of_the_job_comes_through_and_nothing_else(answer: Answer, capfd: pytest.CaptureFixture[str]) -> None:
    code = "print('motd')\n" + BEGINS + "print('[1 s] trials: started')\nprint('± 1.5', end='\\r\\n')\n"
    assert answer(code + "mark(code=0, text='', is_refused=False)\nprint('logout')") == 0
    out, err = capfd.readouterr()
    assert out == "[1 s] trials: started\n± 1.5\n"
    assert err == "job tune-1 runs on the head of my cluster.yaml; Ctrl-C leaves it running\n"


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_exit_code_is_the_jobs_though_ray_exec_ends_with_another(
    answer: Answer, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert answer(BEGINS + f"mark(code={code}, text='so it is', is_refused=False)\nsys.exit(9)") == code
    assert capfd.readouterr().err.endswith("\nso it is\n")


@pytest.mark.parametrize(
    "word",
    ["", "a b", "it's", '"', "$HOME", "`id`", "!!", "\\", "a\nb", "*", "[1, 10]", "é", ";exit 3", "&&", "-", "#", "~"],
)
def test_arguments_reach_the_head_as_they_are(answer: Answer, word: str, tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    request = Request(action="run", module="dim_ray.tune", arguments=("--study", word), config_text=f"{word}\n'\"\n")
    code = f"open({str(seen)!r}, 'w').write(sys.argv[1])\n"
    assert answer(code + BEGINS + "mark(code=0, text='', is_refused=False)", request) == 0
    assert Request.from_json(seen.read_text()) == request


def test_study_that_runs_already_is_said_to(answer: Answer, capfd: pytest.CaptureFixture[str]) -> None:
    code = "mark(job='tune-1', is_new=False, arguments='--num-trials 4')\nmark(code=0, text='', is_refused=False)"
    assert answer(code) == 0
    assert capfd.readouterr().err == (
        "job tune-1 runs this study already, with --num-trials 4; nothing was submitted\n"
    )


@pytest.mark.parametrize(("code", "kind"), [(1, DimError), (2, UsageError)])
def test_refusal_of_the_head_is_an_error_here(answer: Answer, code: int, kind: type[DimError]) -> None:
    with pytest.raises(kind, match="there is none") as error:
        answer(f"mark(code={code}, text='there is none', is_refused=True)")
    assert error.value.exit_code == code


def test_head_that_cannot_be_reached_is_an_error_with_what_was_said(answer: Answer) -> None:
    with pytest.raises(DimError, match=r"my cluster\.yaml can't be asked .*No module named dim_ray.*is the cluster up"):
        answer("sys.exit('python: No module named dim_ray')")


def test_lost_connection_is_an_error_that_says_how_to_come_back(answer: Answer) -> None:
    with pytest.raises(DimError, match=r"was lost; job tune-1 goes on there.*--cluster 'my cluster\.yaml' --attach tu"):
        answer(BEGINS + "print('[1 s] trials: started')")


def test_mark_of_another_call_is_output(answer: Answer, capfd: pytest.CaptureFixture[str]) -> None:
    forged = "print('0123456789abcdef' + json.dumps({'code': 0, 'text': '', 'is_refused': False}))\n"
    assert answer(BEGINS + forged + "mark(code=3, text='', is_refused=False)") == 3
    assert capfd.readouterr().out.startswith("0123456789abcdef{")


def test_interrupt_leaves_the_job_and_ends_the_connection(answer: Answer, tmp_path: Path) -> None:
    """In a process of its own, because Ctrl-C goes to all of a terminal's processes at once."""
    answer(BEGINS + "mark(code=0, text='', is_refused=False)")  # writes the scripts
    (tmp_path / "head.py").write_text(HEAD + BEGINS + "print('training', flush=True)\ntime.sleep(60)\n")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dim_ray.distributed.remote import laptop\n"
        f"laptop._RAY = (sys.executable, {str(tmp_path / 'ray.py')!r})\n"
        f"laptop._ON_HEAD = (sys.executable, {str(tmp_path / 'head.py')!r})\n"
        "request = laptop.Request(action='run', module='dim_ray.tune')\n"
        "sys.exit(laptop.call_head(request, Path('cluster.yaml')))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "DIM_RAY_TEST_CALL": str(tmp_path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == EXIT_DETACHED
    assert "detached; job tune-1 goes on." in err
    assert "come back to it: python -m dim_ray.tune --cluster cluster.yaml --attach tune-1" in err
    assert "stop it:         python -m dim_ray.tune --cluster cluster.yaml --stop tune-1" in err
    until = time.monotonic() + 10
    while left := marked_processes("DIM_RAY_TEST_CALL", str(tmp_path)):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def test_request_is_one_line_of_plain_text() -> None:
    request = Request(action="attach", module="dim_ray.tune", arguments=("é\n",), config_text="a\nb", job="tune-1")
    assert request.to_json().isascii()
    assert "\n" not in request.to_json()
    assert Request.from_json(request.to_json()) == request
    assert json.loads(request.to_json())["mark"] != Request(action="run", module="m").mark
