from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from dim_ray.cli.settings import known_fields, section_types
from dim_ray.config import MatchingKind
from dim_ray.config.study import SAMPLERS, SCHEDULERS, StudyConfig

DOCS = Path(__file__).parent.parent / "docs"
NAMES = ("data", "method", "protocols", "cluster", "aws", "store", "search")
PAGES = [DOCS / f"{name}.md" for name in NAMES]
MODULES = re.compile(r"\b(?:dim_ray|tuning)(?:\.\w+)+")


def resolve(name: str) -> Any:
    """Returns what a dotted name stands for: a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return found
    raise AttributeError(name)


def fields_in(text: str) -> set[str]:
    """Returns what looks like a field of the configuration, and is no part of a longer name."""
    sections = "|".join(section_types())
    return set(re.findall(rf"(?<![\w.])(?:{sections})\.(?!md\b)[a-z]\w*", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_code_on_the_page_exists(page: Path) -> None:
    names = set(MODULES.findall(page.read_text()))
    assert names
    for name in names:
        resolve(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_field_on_the_page_exists(page: Path) -> None:
    assert fields_in(page.read_text()) <= set(known_fields())


def test_method_has_every_kind_of_matching_and_every_field_of_it() -> None:
    text = (DOCS / "method.md").read_text()
    assert all(f"| `{kind}` |" in text for kind in get_args(MatchingKind))
    described = {
        "kind", "weight", "adversarial_weight", "temperature", "standardised", "unbiased", "teachers_per_step",
        "precision",
    }  # fmt: skip
    assert {f"matching.{name}" for name in described} <= fields_in(text)


def test_search_has_every_sampler_and_scheduler() -> None:
    text = (DOCS / "search.md").read_text()
    assert all(f"| `{name}`" in text for name in (*SAMPLERS, *SCHEDULERS))


def test_space_on_the_search_page_can_be_searched_and_begins_with_that_of_digits() -> None:
    block = (DOCS / "search.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    study = StudyConfig(**yaml.safe_load(block)["study"])
    digits = yaml.safe_load((DOCS.parent / "tuning" / "studies" / "digits.yaml").read_text())["study"]["space"]
    assert dict(list(study.space.items())[:4]) == digits


def test_a_name_that_does_not_exist_is_found() -> None:
    with pytest.raises(AttributeError, match="no_such"):
        resolve("dim_ray.core.teachers.pool.no_such")
    assert fields_in("`pool.sise`, see prior.md and dim_ray.core.teachers.pool.shard") == {"pool.sise"}
