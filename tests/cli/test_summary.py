from __future__ import annotations

import ast
import io
import shlex
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from dim_ray.api import load_generator
from dim_ray.cli.flags import EVALUATE_FLAGS, add_generator
from dim_ray.cli.main import parse
from dim_ray.cli.summary import accuracy_table, make_console, pool_table, print_lines, print_next, print_places
from dim_ray.config import DataConfig
from dim_ray.distill import _print as print_distilled
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, real_evaluation
from tests.helpers.small import build_networks, distil, make_work
from tests.store.conftest import object_store  # noqa: F401  # a fixture


def rows_of(root: Path, *rows: dict[str, object]) -> pd.DataFrame:
    Writer(str(root)).append_evaluations(rows)
    return Reader(str(root)).evaluations()


def text_of(*printed: object, width: int = 120) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    for item in printed:
        console.print(item)
    return file.getvalue()


def table_rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if "convnet3" in line or "resnet" in line]


def test_table_has_steps_images_and_mean_and_std_of_n_seeds_beside_the_baselines(tmp_path: Path) -> None:
    rows = []
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        rows += [
            evaluation(seed=seed, accuracy=accuracy),
            evaluation(seed=seed, protocol="fixed", accuracy=accuracy - 0.2),
            real_evaluation(seed=seed, protocol="real_on_the_fly", accuracy=0.99),
            real_evaluation(seed=seed, accuracy=accuracy - 0.4),
        ]
    text = text_of(accuracy_table(rows_of(tmp_path, *rows)))
    assert "n = 3 seeds" in text
    assert "generated" in text
    assert "real" in text
    [row] = table_rows(text)
    assert " ".join(row) == "10 convnet3 1000 100,000 92.0 ± 2.0 72.0 ± 2.0 99.0 ± 0.0 52.0 ± 2.0"


def test_rows_of_several_data_sets_have_a_column_for_them(tmp_path: Path) -> None:
    rows = [evaluation(dataset="mnist", accuracy=0.9), evaluation(dataset="digits", generator="b" * 16, accuracy=0.8)]
    text = text_of(accuracy_table(rows_of(tmp_path, *rows)))
    assert "dataset" in text
    assert [(row[0], row[-1]) for row in table_rows(text)] == [("digits", "80.0"), ("mnist", "90.0")]


def test_columns_stand_under_their_protocols(tmp_path: Path) -> None:
    rows = [real_evaluation(accuracy=0.11), evaluation(protocol="fixed", accuracy=0.22), evaluation(accuracy=0.33)]
    lines = text_of(accuracy_table(rows_of(tmp_path, *rows))).splitlines()
    values = next(line for line in lines if "convnet3" in line)
    assert values.split()[-3:] == ["33.0", "22.0", "11.0"]  # on the fly, fixed, real fixed
    heading = next(line for line in lines if "fixed" in line)
    for name, value in (("on the fly", "33.0"), ("fixed", "22.0")):
        assert heading.index(name) + len(name) == values.index(value) + len(value)


def test_table_has_a_row_for_each_ipc_and_architecture_in_order(tmp_path: Path) -> None:
    rows = [
        evaluation(ipc=ipc, architecture=architecture, optimiser_steps=100 * ipc)
        for ipc in (50, 1, 10)
        for architecture in ("resnet18", "convnet3")
    ]
    lines = table_rows(text_of(accuracy_table(rows_of(tmp_path, *rows))))
    assert [(ipc, name, steps) for ipc, name, steps, *_ in lines] == [
        (str(ipc), name, str(100 * ipc)) for ipc in (1, 10, 50) for name in ("convnet3", "resnet18")
    ]


def test_cell_that_is_missing_is_a_dash_and_a_single_seed_has_no_spread(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, evaluation(accuracy=0.9), evaluation(ipc=1, protocol="fixed", accuracy=0.5))
    text = text_of(accuracy_table(rows))
    assert table_rows(text) == [
        ["1", "convnet3", "1000", "100,000", "-", "50.0"],
        ["10", "convnet3", "1000", "100,000", "90.0", "-"],
    ]
    assert "n = 1" in text


def test_numbers_of_seeds_that_differ_are_both_named(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, evaluation(), evaluation(seed=1), evaluation(protocol="fixed"))
    assert "n = 1 or 2 seeds" in text_of(accuracy_table(rows))


def test_pool_has_a_row_for_each_teacher() -> None:
    card = {
        "number": 3, "architecture": "mlp", "validation_accuracy": 0.8764, "steps": [3, 40], "wall_seconds": 2.6,
        "fingerprint": "f" * 16,
    }  # fmt: skip
    assert f"3 mlp 87.6 % 3, 40 3 {'f' * 16}" in " ".join(text_of(pool_table([card])).split())


STORAGE = """my "own" $storage's"""


@pytest.fixture
def places(tmp_path: Path) -> str:
    file = io.StringIO()
    console = Console(file=file, width=40, highlight=False)
    work = make_work(tmp_path / STORAGE)
    print_places(console, work, "a" * 16)
    print_next(console, work, [1, 50])
    return file.getvalue()


def test_rows_generator_picture_and_log_are_named_in_one_line_each(places: str, tmp_path: Path) -> None:
    storage = tmp_path / STORAGE
    lines = places.splitlines()
    assert f"rows       {storage}/evaluations" in lines
    assert f"generator  {storage}/generators/{'a' * 16}" in lines
    assert f"picture    {storage}/generators/{'a' * 16}/samples.png" in lines
    assert f"log        {storage}/studies/tiny/study.log" in lines


def test_commands_may_be_copied_whatever_the_path(places: str, tmp_path: Path) -> None:
    storage = str(tmp_path / STORAGE)
    commands = [shlex.split(line) for line in places.splitlines() if line.startswith("  python")]
    assert commands[0] == ["python", "-m", "dim_ray.results", "list", "--storage", storage]
    assert commands[1] == ["python", "-m", "dim_ray.report", "--storage", storage]
    assert [command[:2] for command in commands[2:]] == [["python", "-c"], ["python", "-c"]]
    assert evaluated_call(commands[2][2], "read_parquet") == [f"{storage}/evaluations"]
    assert evaluated_call(commands[3][2], "best_generator") == [storage, "tiny", 1]  # IPC 10 was not evaluated


def evaluated_call(code: str, name: str) -> list[object]:
    """Returns the arguments of the only call of a module's function in a line of Python."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    [call] = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == name]
    return [ast.literal_eval(node) for node in (*call.args, *(keyword.value for keyword in call.keywords))]


def test_commands_after_a_distillation_find_the_generator_its_data_and_its_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = make_work(tmp_path / STORAGE, data=DataConfig(dataset="folder:my pets", split_seed=3))
    build_networks(work)
    generator = distil(work)
    print_distilled(work, generator, True)
    lines = capsys.readouterr().out.splitlines()
    evaluate, load = (shlex.split(line) for line in lines if line.startswith("  python"))
    assert evaluate[:3] == ["python", "-m", "dim_ray.evaluate"]
    config, extras = parse(
        evaluate[3:],
        program="evaluate",
        description="",
        flags=EVALUATE_FLAGS,
        defaults=None,
        extra=add_generator,
    )
    assert config.storage.root == str(tmp_path / STORAGE)
    assert config.data == work.config.data
    assert extras.generator == work.artifacts.uri("generators", generator)
    [uri] = evaluated_call(load[2], "load_generator")
    assert load_generator(str(uri)).fingerprint == generator


def test_lines_are_printed_as_they_are() -> None:
    file = io.StringIO()
    console = Console(file=file, width=20, highlight=False)
    text = "[bold]a path[/bold] /with/[brackets] that is much longer than the terminal is wide"
    print_lines(console, text, "")
    assert file.getvalue() == f"{text}\n\n"


def test_output_of_a_pipe_is_wide_enough_for_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert make_console().width == 120
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # in a notebook, whose kernel also asks for colours
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert (make_console().width, make_console().is_terminal) == (120, False)
    rows = [
        values(protocol=protocol, seed=seed, accuracy=0.5 + seed / 10, architecture="resnet18_w128")
        for protocol, values in {
            "on_the_fly": evaluation,
            "fixed": evaluation,
            "real_on_the_fly": real_evaluation,
            "real_fixed": real_evaluation,
        }.items()
        for seed in range(3)
    ]
    text = text_of(accuracy_table(rows_of(tmp_path, *rows)), width=100)
    assert "…" not in text
    assert len(table_rows(text)) == 1


def test_places_on_an_object_store_are_uris(object_store: str) -> None:  # noqa: F811
    file = io.StringIO()
    console = Console(file=file, width=200, highlight=False)
    print_places(console, make_work(object_store), "a" * 16)
    lines = file.getvalue().splitlines()
    bucket, _, options = object_store.partition("?")
    assert lines[0].split() == ["rows", f"{bucket}/evaluations?{options}"]
    assert lines[1].split() == ["generator", f"{bucket}/generators/{'a' * 16}?{options}"]
    assert lines[3].split()[1].startswith(f"{bucket}/studies/tiny/study-")
