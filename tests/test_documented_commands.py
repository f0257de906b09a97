"""The recipe of every documented command suits the data that the command names."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from dim_ray.cli import recipes
from dim_ray.cli.flags import shipped_studies
from dim_ray.cli.recipes import choose_recipe, read_shipped
from dim_ray.config import DataConfig
from dim_ray.config.suits import KNOWN_IMAGES, Device, Images

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "cluster.yaml",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "cluster").iterdir(),
    *shipped_studies().values(),
    *(ROOT / "dim_ray").glob("*.py"),
]
COMMAND = re.compile(r"python -m\s+dim_ray\.(?:tune|distill|pool|evaluate|quirks|doctor)\b([^#`'\n]*)")
ON_GPUS = ("aws.md", "cluster.md", "slurm.sh", "kuberay.yaml", "gpu.yaml")


def commands() -> list[tuple[str, str]]:
    """Return the file and the arguments of each command."""
    found = []
    for path in PAGES:
        text = path.read_text()
        text = ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else re.sub(r"\s*\\\n\s*", " ", text)
        found += [(path.name, match[1].split("   ")[0].strip(" .,")) for match in COMMAND.finditer(text)]
    return found


def value(words: list[str], flag: str) -> list[str]:
    """Return what follows a flag, up to the next one."""
    if flag not in words:
        return []
    after = words[words.index(flag) + 1 :]
    return after[: next((index for index, word in enumerate(after) if word.startswith("--")), len(after))]


@pytest.mark.parametrize(("page", "arguments"), commands())
def test_recipe_suits_what_the_command_names(page: str, arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word.strip(",;") for word in shlex.split(re.sub("[\"']", "", arguments))]
    datasets, config = value(words, "--dataset") or ["digits"], value(words, "--config")
    device: Device = "gpu" if page in ON_GPUS or config == ["gpu"] else "cpu"
    if config and config[0] in shipped_studies():
        settings, suits = read_shipped(config[0])
        own = [setting.value for setting in settings if setting.field == "data.dataset"]
        dataset = (value(words, "--dataset") or own or ["digits"])[0]
        assert suits.fits(KNOWN_IMAGES[dataset], device), f"{config[0]} doesn't suit {dataset}"
        return
    for dataset in datasets:
        known = KNOWN_IMAGES.get(dataset, Images(dataset=dataset, number=300, num_channels=3, pixels=48))
        monkeypatch.setattr(recipes, "find_images", lambda data, known=known: known)
        if not config:
            recipe = choose_recipe(DataConfig(dataset=dataset), lambda: device, command="tune")
            suits = read_shipped(recipe.name)[1]
            assert suits.fits(known, device)
            assert (recipe.name == "digits") == (dataset == "digits")


def test_commands_of_every_kind_of_page_are_found() -> None:
    pages = {page for page, _ in commands()}
    assert {"README.md", "search.md", "data.md", "mnist_cpu.yaml", "tune.py", *ON_GPUS} <= pages
    assert any("--dataset cifar10" in arguments for page, arguments in commands() if page == "slurm.sh")
