"""Every file of examples/ learns, from fewer images and with timm's smallest model; loaders and compiled networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import dim_ray
from dim_ray.api import StoredGenerator
from dim_ray.config import GeneratorConfig
from dim_ray.core.generator.networks import build_generator
from dim_ray.core.training.random import stream

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NEEDED = {"lightning_module": "lightning", "skorch_classifier": "skorch", "timm_model": "timm"}


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> StoredGenerator:
    """One that nobody trained, whose classes differ by much; in the place of the best of digits."""
    config = GeneratorConfig(capacity=4)
    module = build_generator(config, num_classes=10, num_channels=1, image_size=8, rng=stream(0))
    with torch.no_grad():
        next(module.parameters())[:, :10] *= 10  # what the label does
        module.train()
        for _ in range(30):  # settles the statistics of normalisation
            module.sample(torch.arange(10).repeat(50), stream(1))
        module.eval()
    dataset = {
        "name": "digits",
        "class_names": list("0123456789"),
        "num_channels": 1,
        "image_size": 8,
        "mean": [0.3],
        "std": [0.4],
    }
    generator = StoredGenerator(module, {"fingerprint": "0" * 16, "dataset": dataset}, "memory")
    monkeypatch.setattr(dim_ray, "best_generator", lambda storage, *, dataset, ipc: generator, raising=False)
    return generator


def accuracy(network: Any, generator: StoredGenerator) -> float:
    """Returns the share of new images of the generator that a network classifies."""
    images, labels = generator.fixed_dataset(ipc=20, seed=7).tensors
    with torch.no_grad():
        scores = torch.as_tensor(network(images) if isinstance(network, nn.Module) else network.predict_proba(images))
    return float((scores.argmax(1) == labels).float().mean())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_learns_what_the_generator_knows(
    path: Path, generator: StoredGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    if path.stem in NEEDED:
        pytest.importorskip(NEEDED[path.stem])
    torch.manual_seed(0)
    text, count = re.subn(r"images_per_epoch=\d+", "images_per_epoch=2560", path.read_text())
    text = text.replace("resnet10t", "test_resnet")  # timm's smallest
    assert count == 1
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, path, "exec"), names)
    assert accuracy(names["network"], generator) > 0.5
    assert "% of the real digits" in capsys.readouterr().out


def test_there_are_four_examples_and_they_are_short() -> None:
    assert len(EXAMPLES) == 4
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES)


@pytest.mark.slow
def test_compiled_network_learns_the_same_as_it_does_uncompiled(generator: StoredGenerator) -> None:
    def losses(compiled: bool) -> Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        forward = torch.compile(network) if compiled else network
        found = []
        for images, labels in generator.stream(
            batch_size=32, images_per_epoch=110, seed=0
        ):  # the last batch is smaller
            loss = nn.functional.cross_entropy(forward(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found)

    torch.testing.assert_close(losses(compiled=True), losses(compiled=False))


@pytest.mark.gpu
def test_workers_of_a_loader_pin_memory_for_the_gpu(generator: StoredGenerator) -> None:
    loader = DataLoader(generator.stream(8, 32, seed=0), batch_size=None, num_workers=2, pin_memory=True)
    for images, labels in loader:
        assert images.is_pinned()
        assert labels.is_pinned()
        assert torch.equal(images.to("cuda", non_blocking=True).cpu(), images)
