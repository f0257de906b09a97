"""The gallery: what a generator draws, the real images nearest to it if they may be shown, and the verdict."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dim_ray.config import DataConfig, GeneratorConfig, to_dict
from dim_ray.core.data.dataset import Dataset, load_dataset, signed
from dim_ray.core.data.memorisation import measure_memorisation
from dim_ray.core.generator.networks import build_generator
from dim_ray.core.training.checkpoint import dumps
from dim_ray.core.training.random import stream
from dim_ray.errors import DataError
from dim_ray.pipeline.generators import GENERATOR_FILE
from dim_ray.pipeline.stored_data import stored_data
from dim_ray.pipeline.workspace import dataset_card
from dim_ray.reporting import gallery as module
from dim_ray.reporting.cells import best_generators
from dim_ray.reporting.content import Section
from dim_ray.reporting.gallery import gallery, interpolate
from dim_ray.store.artifacts import DATASETS, ArtifactStore
from dim_ray.store.reader import Reader
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation

NAME = "feed000011112222"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DataConfig())


@pytest.fixture
def artifacts(tmp_path: Path, digits: Dataset) -> ArtifactStore:
    """Has an untrained generator of the digits, and its row."""
    store, config = ArtifactStore(str(tmp_path)), GeneratorConfig(capacity=4, latent_dim=16, refinements=(1,))
    network = build_generator(config, num_classes=10, num_channels=1, image_size=8, rng=stream(0))
    card = {
        "generator": to_dict(config),
        "dataset": dataset_card(digits),
        "memorisation": asdict(measure_memorisation(digits.train.images[:100], digits)),
    }
    store.write("generators", NAME, {GENERATOR_FILE: dumps(network.state_dict())}, card)
    Writer(store.root).append_evaluations([evaluation(generator=NAME)])
    return store


def made(artifacts: ArtifactStore, *, shows_own: bool = False) -> Section:
    return gallery(artifacts, best_generators(Reader(artifacts.root).evaluations()), shows_own=shows_own)


def test_gallery_has_the_way_between_images_the_nearest_real_ones_and_the_verdict(artifacts: ArtifactStore) -> None:
    section = made(artifacts)
    assert [picture.name for picture in section.pictures] == ["between-digits", "neighbours-digits"]
    [(dataset, verdict)] = section.tables[0].rows
    assert dataset == "digits"
    assert verdict.startswith("Training images are memorised: 100 of 100")


class Copies(nn.Module):
    """Returns training images of the class."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self._split = dataset.train

    def noise(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(count, 16, generator=rng)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return signed(self._split.images[: len(labels)])

    def sample(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        return signed(self._split.images[self._split.labels == labels[0]][: len(labels)])


def test_pairs_of_a_generator_that_copies_are_twice_the_same_image(
    artifacts: ArtifactStore, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids, usual = [], module.sample_grid
    monkeypatch.setattr(module, "generator_from_artifact", lambda artifact, weights: Copies(digits))
    monkeypatch.setattr(module, "sample_grid", lambda images, names: grids.append(images) or usual(images, names))
    made(artifacts)
    pairs = grids[1:]
    assert [tuple(pair.shape) for pair in pairs] == [(10, 2, 1, 8, 8)] * 4
    assert all(torch.equal(pair[:, 0], pair[:, 1]) for pair in pairs)


def test_generator_whose_files_are_gone_is_left_out(artifacts: ArtifactStore) -> None:
    artifacts.remove("generators", NAME)
    section = made(artifacts)
    assert not section.pictures
    assert not section.tables


def test_own_training_images_are_shown_only_to_those_who_ask(artifacts: ArtifactStore, tmp_path: Path) -> None:
    card = {"name": "digits", "source": f"folder:{tmp_path}/nothing", "digest": "0"}
    artifacts.write(DATASETS, "digits", {}, card)
    assert [picture.name for picture in made(artifacts).pictures] == ["between-digits"]
    assert [picture.name for picture in made(artifacts, shows_own=True).pictures] == ["between-digits"]  # not there


def test_stored_data_are_read_where_the_name_s_card_says_and_only_if_they_are_the_same(
    artifacts: ArtifactStore, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.write(DATASETS, "digits", {}, {"name": "digits", "source": "folder:somewhere", "digest": "0"})
    asked = []

    def load(config: DataConfig, *, may_download: bool) -> Dataset:
        asked.append((config.dataset, config.test_fraction, may_download))
        return digits

    monkeypatch.setattr("dim_ray.pipeline.stored_data.load_dataset", load)
    card = {"dataset": dataset_card(digits), "splits": {"test_fraction": 0.3}}
    assert stored_data(artifacts, card, data_root=None, only_known=True) is None
    assert stored_data(artifacts, card, data_root=None) is digits
    assert stored_data(artifacts, {"dataset": {"name": "digits", "digest": "other"}}, data_root=None) is None
    assert asked == [("folder:somewhere", 0.3, False), ("folder:somewhere", 0.2, False)]


def test_nothing_is_downloaded_for_the_gallery(tmp_path: Path) -> None:
    config = DataConfig(dataset="mnist", data_root=str(tmp_path / "none"))
    with pytest.raises(DataError, match="give the folder that has torchvision's files of it"):
        load_dataset(config, may_download=False)
    assert not (tmp_path / "none").exists()


def test_the_way_between_two_vectors_keeps_their_length() -> None:
    first, last = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    way = interpolate(first, last, 5)
    assert torch.allclose(way[[0, -1]], torch.stack([first, last]), atol=1e-6)
    assert torch.allclose(way.norm(dim=1), torch.full((5,), 3.0))
