from __future__ import annotations

import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import dim_ray
from dim_ray.api import StoredGenerator
from dim_ray.cli import clusters
from dim_ray.cli.flags import DISTILL_FLAGS, DOCTOR_FLAGS, EVALUATE_FLAGS, TUNE_FLAGS, add_generator
from dim_ray.cli.main import parse
from dim_ray.config import GeneratorConfig
from dim_ray.core.generator.networks import build_generator
from dim_ray.core.training.random import stream

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "best_generator" in block]
COMMANDS = re.findall(
    r"^    (?:\w+=\w+ )?python -m dim_ray\.(tune|distill|evaluate|doctor)\b(.*?)(?:  #.*)?$", README, re.M
)
FLAGS = {"tune": TUNE_FLAGS, "distill": DISTILL_FLAGS, "evaluate": EVALUATE_FLAGS, "doctor": DOCTOR_FLAGS}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> StoredGenerator:
    """Takes the place of the best generator of digits."""
    config = GeneratorConfig(capacity=4)
    module = build_generator(config, num_classes=10, num_channels=1, image_size=8, rng=stream(0)).eval()
    dataset = {"name": "digits", "class_names": list("0123456789"), "mean": [0.3], "std": [0.4]}
    generator = StoredGenerator(module, {"fingerprint": "0" * 16, "dataset": dataset}, "memory")
    monkeypatch.setattr(dim_ray, "best_generator", lambda storage, *, dataset, ipc: generator, raising=False)
    return generator


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_of_the_readme_runs_as_it_stands(example: str, untrained: StoredGenerator) -> None:
    names: dict[str, Any] = {}
    exec(example, names)
    images = names["images"]
    assert images.shape[1:] == (1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_readme_has_an_example() -> None:
    assert len(EXAMPLES) == 1


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_command_of_the_readme_is_understood(
    command: str, arguments: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")  # --address sets it
    monkeypatch.setattr(clusters, "call_head", lambda request, cluster_file: 0)
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").write_text("max_workers: 4\nprovider:\n  type: aws\n")
    argv = shlex.split(arguments)
    with pytest.raises(SystemExit, match="0") if "--cluster" in argv else nullcontext():
        parse(argv, program=command, description="", flags=FLAGS[command], defaults=None, extra=add_generator)
