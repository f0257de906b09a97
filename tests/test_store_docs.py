"""docs/store.md has every column as the schema has it, and commands that are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest

from dim_ray.results import parse_arguments
from dim_ray.store.schema import EVALUATIONS, TABLES, Table
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation

PAGE = (Path(__file__).parent.parent / "docs" / "store.md").read_text()
COMMANDS = re.findall(r"^    python -m dim_ray\.results (.*?)(?:  +.*)?$", PAGE, re.M)


def line(field: pa.Field) -> str:
    """Return a column's line in the page's table."""
    meaning = {key.decode(): value.decode() for key, value in field.metadata.items()}
    unit = "" if meaning["unit"] == "-" else f", {meaning['unit']}"
    kind = f"{field.type}{unit}{', or null' if field.nullable else ''}"
    allowed = f" One of: {meaning['allowed']}." if "allowed" in meaning else ""
    since = f" Since version {meaning['since']}." if "since" in meaning else ""
    return f"| `{field.name}` | {kind} | {meaning['description']}{allowed}{since} |"


def is_of_evaluations(field: pa.Field) -> bool:
    """Return whether evaluations have the same column with the same meaning."""
    return any(field.equals(other, check_metadata=True) for other in EVALUATIONS)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_page_has_every_column_with_type_unit_and_meaning_and_no_other(table: Table) -> None:
    section = PAGE.split(f"### {table.name}\n")[1].split("\n#")[0]
    shared = [] if table.schema is EVALUATIONS else [field.name for field in table.schema if is_of_evaluations(field)]
    lines = [text for text in section.splitlines() if text.startswith("| `")]
    assert lines == [line(field) for field in table.schema if field.name not in shared]
    paragraph = section.partition("As in evaluations: ")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", paragraph) == shared


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_has_a_meaning_and_a_unit(table: Table) -> None:
    for field in table.schema:
        assert field.metadata[b"description"].endswith((b".", b"?"))
        assert field.metadata[b"unit"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_page_is_understood(command: str) -> None:
    assert parse_arguments(shlex.split(command)).command == command.split()[0]


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 6


OTHER_PROGRAMS = re.findall(r"^rows = (pandas|polars|duckdb)(\..*)$", PAGE, re.MULTILINE)


def test_the_page_has_a_line_for_each_other_program() -> None:
    assert [program for program, _ in OTHER_PROGRAMS] == ["pandas", "polars", "duckdb"]


@pytest.mark.parametrize("name", ["digits", "数据", "data-2024", "images-3f2a91c4"])
@pytest.mark.parametrize(("program", "call"), OTHER_PROGRAMS)
def test_line_for_another_program_finds_exactly_the_rows_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, call: str, name: str
) -> None:
    module = pytest.importorskip(program)
    monkeypatch.chdir(tmp_path)
    names = ["digits", "数据", "data-2024", "images", "images-3f2a91c4"]
    Writer("dim_storage").append_evaluations([evaluation(dataset=own) for own in names])
    rows = eval(f"{program}{call}".replace("digits", name), {program: module})
    assert list(rows["dataset"]) == [name]
