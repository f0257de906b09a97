"""docs/tutorial.md: every command on the page runs in its order, with less training, and prints what the page shows."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

from dim_ray.cli.main import run_main

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text()
STEP = re.compile(r"^    (?P<command>\S[^\n]*)$|^```(?P<kind>python|text)\n(?P<block>.*?)^```$", re.M | re.S)
STEPS = [(match["command"], match["kind"], match["block"]) for match in STEP.finditer(PAGE)]
COMMANDS = [command for command, _, _ in STEPS if command]
INSTALL = ["python3 -m venv dim", "source dim/bin/activate", "pip install dim_ray-*.whl"]
LESS = {
    "distill": "--pool.epochs 1 --pool.num_snapshots 1 --prior.epochs 1 --matching.epochs 1 --evaluation.epochs 1"
    " --evaluation.min_steps 2 --networks.teachers convnet3_w8",
    "evaluate": "--evaluation.epochs 1 --evaluation.min_steps 2",
}


def shape(text: str) -> str:
    """Return text with every number and fingerprint alike, which depend on the training and the processor."""
    return re.sub(r"\b[0-9a-f]{16}\b|\d[\d.,]*", "0", " ".join(text.split()))


def run(command: str) -> None:
    words = shlex.split(command)
    words = [part for word in words for part in (map(str, Path().glob(word)) if "*" in word else [word])]
    if words[1] != "-m":
        runpy.run_path(words[1])
        return
    less = LESS.get(words[2].removeprefix("dim_ray."), "")
    assert run_main(importlib.import_module(words[2]).main, [*words[3:], *shlex.split(less)]) == 0


@pytest.mark.slow
def test_the_page_s_commands_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed, compared = "", 0
    for command, kind, block in STEPS:
        if kind == "python":
            Path("train.py").write_text(block.replace("32_000", "640"))
        elif kind == "text":
            shown = shape(printed.replace(f"{tmp_path}/", ""))
            assert all(shape(line) in shown for line in block.splitlines())
            compared += 1
        elif command not in INSTALL:
            run(command)
            printed = capsys.readouterr().out
    assert compared == 3
    assert "Gallery" in Path("dim_report/report.html").read_text()
    assert "memoris" in Path("digits_generator/README.md").read_text()


def test_the_page_begins_with_the_installation_and_has_no_other_command() -> None:
    assert COMMANDS[:3] == INSTALL
    assert all(command == "python train.py" or command.startswith("python -m dim_ray.") for command in COMMANDS[3:])
