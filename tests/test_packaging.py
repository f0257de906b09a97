from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[.*?\])?==(?P<version>\S+)(?P<rest>(?:.*\\\n)(?:    --hash=.*\n)+)?", re.M
)
PINS = {canonicalize_name(entry["name"]): entry for entry in ENTRY.finditer(LOCK)}


EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
LOCKED = {"dev", *next(r.extras for r in map(Requirement, EXTRAS["dev"]) if r.name == PROJECT["project"]["name"])}
"""What the lock is of; loggers of the user's own are too large for it."""


def dependencies(extras: Iterable[str] = EXTRAS) -> list[Requirement]:
    optional = [text for name in extras for text in EXTRAS[name]]
    texts = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"], *optional]
    return [r for r in map(Requirement, texts) if r.name != PROJECT["project"]["name"]]


@pytest.mark.parametrize("dependency", dependencies(sorted(LOCKED)), ids=str)
def test_every_dependency_is_locked_within_its_range(dependency: Requirement) -> None:
    assert dependency.specifier.contains(PINS[canonicalize_name(dependency.name)]["version"])


@pytest.mark.parametrize("dependency", dependencies(), ids=str)
def test_every_dependency_has_a_lowest_and_a_highest_version(dependency: Requirement) -> None:
    assert {">=", "<"} <= {part.operator for part in dependency.specifier}


def test_every_locked_package_has_hashes() -> None:
    assert [name for name, entry in PINS.items() if not entry["rest"]] == []


def test_the_lock_names_no_place_that_another_machine_may_not_reach() -> None:
    assert "://" not in LOCK
    assert re.findall(r"^-.*", LOCK, re.M) == []


def test_every_module_stands_in_the_layers_of_imports() -> None:
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "layers")
    named = set(re.findall(r"dim_ray\.(\w+)", " ".join(contract["layers"])))
    paths = [p for p in (ROOT / "dim_ray").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    assert {path.stem for path in paths} - {"__init__"} <= named
