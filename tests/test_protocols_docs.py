"""docs/protocols.md says what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import cast

import pytest
import yaml

from dim_ray.cli.flags import DEFAULT_STUDY, QUIRKS_FLAGS, add_generator
from dim_ray.cli.main import parse
from dim_ray.cli.settings import known_fields, section_types, value_of
from dim_ray.config import PRESET_QUIRKS, PRESETS, PROTOCOLS, QUIRKS, Config, EvaluationConfig, Protocol
from dim_ray.core.students.budgets import plan_budget
from dim_ray.quirks import BEGIN, END
from dim_ray.results import _parser as results_parser
from dim_ray.store.schema import EVALUATIONS

TEXT = (Path(__file__).parent.parent / "docs/protocols.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", TEXT)


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table after a line of text, without its head."""
    lines = TEXT[TEXT.index(heading) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| --- |"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def preset_recipe() -> dict[str, object]:
    """Return what the page gives as the recipe of the preset reference."""
    block = TEXT.partition("The recipe of `reference`")[2].partition("```yaml\n")[2].partition("```")[0]
    return cast(dict[str, object], yaml.safe_load(block)["evaluation"])


def test_every_field_that_is_named_exists() -> None:
    sections = "|".join(section_types())
    named = set(re.findall(rf"\b(?:{sections})\.[a-z_0-9]+\b", TEXT))
    assert len(named) > 10
    assert named <= set(known_fields())


def test_every_field_of_the_evaluation_that_a_quirk_or_a_protocol_needs_is_explained() -> None:
    named = {f"evaluation.{name}" for name in preset_recipe()} | set(CODE)
    recipe = {f"evaluation.{name}" for name in PRESETS["reference"]}
    others = {f"evaluation.{name}" for name in ("preset", "quirks", "decay_points", "decay_factor")}
    assert recipe | others | {"evaluation.soft_label_temperature"} <= named


def test_ledger_has_every_switch_once_and_says_which_are_of_the_preset() -> None:
    ledger = TEXT.partition("## Deviations\n")[2].partition("\n##")[0]
    assert sorted(re.findall(r"^- `(\w+)`", ledger, re.M)) == sorted(QUIRKS)
    assert "`reference` all but `dropped_batches`" in ledger
    assert set(PRESET_QUIRKS["reference"]) == set(QUIRKS) - {"dropped_batches"}


def test_table_of_protocols_has_all_of_them() -> None:
    assert [row[0].strip("`") for row in table("## Protocols and their budgets")] == list(PROTOCOLS)


def test_recipe_of_the_preset_is_the_one_that_is_written() -> None:
    assert preset_recipe() == PRESETS["reference"]


def test_budgets_in_numbers_are_right() -> None:
    rows = table("In numbers, for 10 classes")
    assert [row[0].strip("`") for row in rows] == list(PROTOCOLS)
    for name, *numbers in rows:
        found = plan_budget(
            EvaluationConfig(),
            cast(Protocol, name.strip("`")),
            num_classes=10,
            images_per_class=10,
            image_bytes=28 * 28,
            generator_bytes=13_000_000,
            real_class_counts=[6000] * 10,
        )
        assert [int(number.replace(",", "")) for number in numbers] == [
            found.optimiser_steps,
            found.images_drawn,
            found.distinct_images,
            found.stored_bytes,
        ]
    assert pytest.approx(166, abs=0.5) == 13_000_000 / 78_400


def test_words_in_code_with_an_underscore_are_columns_switches_or_protocols() -> None:
    known = {*EVALUATIONS.names, *QUIRKS, *PROTOCOLS, "best_generator"}
    words = {word for word in CODE if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)}
    assert len(words) > 10
    assert words <= known


def test_what_is_called_a_default_is_one() -> None:
    config = Config()
    for field, value in {
        "evaluation.optimizer": "sgd",
        "evaluation.schedule": "constant",
        "evaluation.preset": "corrected",
        "evaluation.decay_factor": 0.1,
        "evaluation.decay_points": (0.5,),
    }.items():
        assert value_of(config, field) == value


def test_commands_are_understood() -> None:
    commands = re.findall(r"python -m (dim_ray\.\w+)([^`\n]*)(?:`|\n)", TEXT)
    assert {name for name, _ in commands} >= {"dim_ray.evaluate", "dim_ray.quirks", "dim_ray.results"}
    for name, arguments in commands:
        argv = shlex.split(arguments.replace("<fingerprint>", "0"))
        if name == "dim_ray.results":
            results_parser().parse_args(argv)
        elif name == "dim_ray.quirks" and argv and argv[0] != ":":

            def add(parser: object) -> None:
                add_generator(parser)  # type: ignore[arg-type]
                parser.add_argument("--write")  # type: ignore[attr-defined]

            parse(argv, program=name, description="", flags=QUIRKS_FLAGS, defaults=DEFAULT_STUDY, extra=add)


def test_measured_table_has_its_place() -> None:
    assert TEXT.count(BEGIN) == TEXT.count(END) == 1
    assert TEXT.index(BEGIN) < TEXT.index(END)


def test_ledger_of_training_has_the_fields_of_the_study_paper_and_their_defaults() -> None:
    paper, default = (parse(argv, program="tune", description="", flags=())[0] for argv in (["--config", "paper"], []))
    fields = set()
    for _, cell, written, _ in table("### Training"):
        for name, value in re.findall(r"`(\w+\.\w+): (\w+)`", cell):
            fields.add(name)
            assert str(value_of(paper, name)) == value
            assert written.split(", ")[0] == str(value_of(default, name)) != value
    assert len(fields) > 6
