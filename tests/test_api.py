from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import dim_ray
from dim_ray.api import StoredGenerator, best_generator, load_generator
from dim_ray.core.teachers.soft_labels import Labeller
from dim_ray.errors import ArtifactError, StorageError, UsageError
from dim_ray.pipeline.generators import GENERATOR_FILE, generator_fingerprint, load_module
from dim_ray.pipeline.priors import prior_fingerprint
from dim_ray.pipeline.teachers import read_teacher
from dim_ray.store.writer import Writer
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation, real_evaluation
from tests.helpers.small import build_networks, distil, make_work
from tests.store.conftest import object_store  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one generator of three classes; not to be changed."""
    root = tmp_path_factory.mktemp("reuse")
    work = make_work(root)
    build_networks(work)
    distil(work)
    return root


@pytest.fixture
def folder(storage: Path) -> Path:
    return next((storage / "generators").iterdir())


@pytest.fixture
def generator(folder: Path) -> StoredGenerator:
    return load_generator(str(folder))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the generator's folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / folder.name))


def test_generator_knows_its_classes_and_normalisation(storage: Path, generator: StoredGenerator) -> None:
    assert generator.class_names == ("class 0", "class 1", "class 2")
    assert generator.num_classes == 3
    assert (generator.mean, generator.std) == ((0.45,), (0.2,))
    assert generator.fingerprint == generator_fingerprint(make_work(storage))
    assert repr(generator) == f"StoredGenerator(tiny, 3 classes, 1x8x8, {generator.fingerprint})"


def test_samples_are_the_networks_images_in_0_to_1(storage: Path, generator: StoredGenerator) -> None:
    labels = torch.tensor([2, 0, 1, 1])
    images = generator.sample(labels, seed=0)
    assert (images.shape, images.dtype) == ((4, 1, 8, 8), torch.float32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not images.requires_grad
    weights = load_module(make_work(storage), generator.fingerprint).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in generator.module.state_dict().items())


def test_same_seed_gives_the_same_images_and_another_others(generator: StoredGenerator) -> None:
    labels = torch.arange(3)
    assert torch.equal(generator.sample(labels, seed=7), generator.sample(labels, seed=7))
    assert not torch.equal(generator.sample(labels, seed=7), generator.sample(labels, seed=8))


def test_without_a_seed_every_call_gives_new_images(generator: StoredGenerator) -> None:
    labels = torch.arange(3)
    assert not torch.equal(generator.sample(labels), generator.sample(labels))
    torch.manual_seed(0)
    first = generator.sample(labels)
    torch.manual_seed(0)
    assert torch.equal(first, generator.sample(labels))  # whoever seeds a whole program seeds this, too


def test_more_images_than_are_generated_at_a_time_are_all_different(generator: StoredGenerator) -> None:
    images = generator.sample(torch.arange(1001) % 3, seed=0)
    assert images.shape == (1001, 1, 8, 8)
    assert num_distinct(images) == 1001


def test_no_labels_give_no_images(generator: StoredGenerator) -> None:
    assert generator.sample(torch.zeros(0, dtype=torch.int64), seed=0).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    "labels", [torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor(1), torch.zeros(2, 3).long()]
)
def test_labels_that_are_no_classes_are_refused(generator: StoredGenerator, labels: Tensor) -> None:
    with pytest.raises(UsageError, match=r"labels are .*; allowed: a vector of whole numbers from 0 to 2"):
        generator.sample(labels)


def test_teachers_of_the_storage_choose_among_candidates(storage: Path, generator: StoredGenerator) -> None:
    labels = torch.tensor([0, 1, 2, 2])
    candidates = generator.sample(labels.repeat_interleave(4), seed=3).view(4, 4, 1, 8, 8)
    chosen = generator.sample(labels, seed=3, candidates=4)
    work = make_work(storage)
    teachers = [read_teacher(work.artifacts, name) for name in generator.card["teachers"]]
    shares = Labeller(teachers, work.dataset, temperature=1.0)((candidates.flatten(0, 1) - 0.45) / 0.2).view(4, 4, 3)
    for image, own, share, label in zip(chosen, candidates, shares, labels.tolist(), strict=True):
        right = [number for number in range(4) if share[number].argmax() == label]
        assert torch.equal(image, own[right[0] if right else int(share[:, label].argmax())])


def test_candidates_are_for_sets_and_streams_too(generator: StoredGenerator) -> None:
    plain, chosen = (generator.fixed_dataset(2, candidates=count).tensors[0] for count in (1, 3))
    assert not torch.equal(plain, chosen)
    assert torch.equal(chosen, generator.sample(torch.tensor([0, 0, 1, 1, 2, 2]), seed=0, candidates=3))
    (plain, _), (chosen, _) = (next(iter(generator.stream(6, 6, candidates=count))) for count in (1, 3))
    assert not torch.equal(plain, chosen)


def test_candidates_without_teachers_are_refused(copied: Path, generator: StoredGenerator) -> None:
    with pytest.raises(UsageError, match=r"candidates need the teachers of .* isn't there. Load the generator from"):
        load_generator(copied).sample(torch.arange(3), candidates=2)
    with pytest.raises(UsageError, match=r"candidates is 0; allowed: 1 or more"):
        generator.sample(torch.arange(3), candidates=0)


def test_latent_steps_without_teachers_or_images_are_refused(copied: Path, generator: StoredGenerator) -> None:
    with pytest.raises(UsageError, match=r"latent steps need the teachers of .* or leave latent_steps at 0"):
        load_generator(copied).fixed_dataset(2, latent_steps=1)
    with pytest.raises(UsageError, match=r"latent steps need the images of tiny .* and they aren't where"):
        generator.fixed_dataset(2, latent_steps=1)
    with pytest.raises(UsageError, match=r"latent_steps is -1; allowed: 0 or more, and"):
        generator.fixed_dataset(2, latent_steps=-1)


def test_fixed_dataset_has_ipc_images_of_every_class(generator: StoredGenerator) -> None:
    dataset = generator.fixed_dataset(ipc=5, seed=1)
    images, labels = dataset.tensors
    assert len(dataset) == 15
    assert images.shape == (15, 1, 8, 8)
    assert labels.bincount().tolist() == [5, 5, 5]
    again, other = generator.fixed_dataset(ipc=5, seed=1), generator.fixed_dataset(ipc=5, seed=2)
    assert torch.equal(images, again.tensors[0])
    assert not torch.equal(images, other.tensors[0])
    image, label = dataset[7]
    assert torch.equal(image, images[7])
    assert label == labels[7]


@pytest.mark.parametrize("ipc", [0, -1])
def test_fixed_dataset_without_images_is_refused(generator: StoredGenerator, ipc: int) -> None:
    with pytest.raises(UsageError, match=f"ipc is {ipc}"):
        generator.fixed_dataset(ipc)


@pytest.mark.parametrize("sizes", [(0, 10), (10, 0)])
def test_stream_without_images_is_refused(generator: StoredGenerator, sizes: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="is 0; allowed: 1 or more"):
        generator.stream(*sizes)


def test_stream_yields_what_its_length_says_with_balanced_classes(generator: StoredGenerator) -> None:
    stream = generator.stream(batch_size=8, images_per_epoch=31, seed=0)
    batches = list(stream)
    assert len(stream) == len(batches) == 4
    assert [len(images) for images, _ in batches] == [8, 8, 8, 7]
    assert all(len(images) == len(labels) for images, labels in batches)
    counts = torch.cat([labels for _, labels in batches]).bincount()
    assert sorted(counts.tolist()) == [10, 10, 11]


def test_stream_shows_its_classes_in_no_fixed_order(generator: StoredGenerator) -> None:
    labels = [labels.tolist() for _, labels in generator.stream(batch_size=30, images_per_epoch=30, seed=0)]
    assert labels[0] != sorted(labels[0])
    assert labels[0] != [i % 3 for i in range(30)]


def all_images(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([images for images, _ in batches])


def num_distinct(images: Tensor) -> int:
    return len(images.flatten(1).unique(dim=0))


def test_stream_is_fresh_in_every_epoch_and_the_same_for_the_same_seed(generator: StoredGenerator) -> None:
    def two_epochs(seed: int) -> Tensor:
        stream = generator.stream(batch_size=8, images_per_epoch=24, seed=seed)
        return torch.cat([all_images(stream), all_images(stream)])

    images = two_epochs(3)
    assert num_distinct(images) == 48
    assert torch.equal(images, two_epochs(3))
    assert num_distinct(torch.cat([images, two_epochs(4)])) == 96


@pytest.mark.parametrize("is_persistent", [False, True])
def test_workers_of_a_loader_share_an_epoch_and_every_epoch_is_fresh(
    generator: StoredGenerator, is_persistent: bool
) -> None:
    stream = generator.stream(batch_size=4, images_per_epoch=26, seed=0)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=is_persistent)
    epochs = [[(images.clone(), labels.clone()) for images, labels in loader] for _ in range(2)]
    for batches in epochs:
        assert len(batches) == len(loader) == 7
        assert sum(len(images) for images, _ in batches) == 26
        counts = torch.cat([labels for _, labels in batches]).bincount()
        assert sorted(counts.tolist()) == [8, 9, 9]
    assert num_distinct(torch.cat([all_images(batches) for batches in epochs])) == 52


def test_workers_give_the_same_images_for_the_same_seeds(generator: StoredGenerator) -> None:
    def epoch(seed: int, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        return all_images(DataLoader(generator.stream(4, 12, seed=seed), batch_size=None, num_workers=2))

    first = epoch(0, 5)
    assert torch.equal(first, epoch(0, 5))
    assert not torch.equal(first, epoch(1, 5))


def test_classifier_of_a_user_trains_on_the_stream(generator: StoredGenerator) -> None:
    layer = torch.nn.Linear(64, generator.num_classes)
    network = torch.nn.Sequential(torch.nn.Flatten(), layer)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    for images, labels in DataLoader(generator.stream(16, 64), batch_size=None):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert not torch.equal(before, layer.weight)


@pytest.mark.parametrize("spelling", ["folder", "file", "uri", "card"])
def test_generator_is_loaded_from_its_folder_a_file_in_it_or_a_uri(folder: Path, spelling: str) -> None:
    address = {
        "folder": str(folder),
        "file": str(folder / GENERATOR_FILE),
        "uri": folder.as_uri(),
        "card": str(folder / "card.json"),
    }[spelling]
    assert load_generator(address).fingerprint == folder.name


def test_truncated_generator_is_refused(copied: Path) -> None:
    file = copied / GENERATOR_FILE
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=rf"{GENERATOR_FILE} in .*{copied.name} is truncated"):
        load_generator(str(copied))


def test_altered_generator_is_refused(copied: Path) -> None:
    file = copied / GENERATOR_FILE
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="was altered"):
        load_generator(str(copied))


def test_generator_of_a_newer_version_is_refused(copied: Path) -> None:
    edit_card(copied, lambda card: card.update(format_version=card["format_version"] + 1))
    with pytest.raises(ArtifactError, match=r"newer version of dim_ray.*upgrade"):
        load_generator(str(copied))


@pytest.mark.parametrize(
    "changes", [{"capacity": 7}, {"capacity": 0}, {"capacity": "six"}, {"attention": True}, {"refinements": None}]
)
def test_card_that_does_not_describe_its_network_is_refused(copied: Path, changes: dict[str, object]) -> None:
    edit_card(copied, lambda card: card["generator"].update(changes))
    with pytest.raises(ArtifactError, match=rf"card of .*{copied.name} doesn't describe the network") as refusal:
        load_generator(str(copied))
    assert "\n" not in str(refusal.value)


def test_card_without_a_data_set_is_refused(copied: Path) -> None:
    edit_card(copied, lambda card: card.pop("dataset"))
    with pytest.raises(ArtifactError, match="doesn't describe the network"):
        load_generator(str(copied))


def test_prior_is_not_a_generator(storage: Path) -> None:
    prior = storage / "priors" / prior_fingerprint(make_work(storage))
    with pytest.raises(ArtifactError, match="'priors'; needed here: 'generators'"):
        load_generator(str(prior))


def test_missing_generator_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"dim_ray\.results best"):
        load_generator(str(tmp_path / "nothing"))


@pytest.fixture
def with_rows(storage: Path, folder: Path, tmp_path: Path) -> str:
    """A storage whose rows name the generator and a worse one, which has the better test accuracy."""
    root = Path(shutil.copytree(storage, tmp_path / "storage"))
    writer = Writer(str(root))
    for seed in range(2):
        ours = {"generator": folder.name, "validation_accuracy": 0.8, "accuracy": 0.5, "best_test_accuracy": 0.5}
        theirs = {"generator": "b" * 16, "validation_accuracy": 0.7, "accuracy": 0.9, "best_test_accuracy": 0.95}
        writer.append_evaluations([evaluation(seed=seed, **values) for values in (ours, theirs)])
    writer.append_evaluations([real_evaluation(validation_accuracy=0.99, accuracy=0.99)])
    return str(root)


def test_best_generator_is_chosen_by_validation_and_not_by_test(with_rows: str, folder: Path) -> None:
    generator = best_generator(with_rows, dataset="digits", ipc=10)
    assert generator.fingerprint == folder.name
    assert generator.sample(torch.arange(3), seed=0).shape == (3, 1, 8, 8)


def test_generator_made_and_found_on_an_object_store_gives_the_same_images(
    object_store: str,  # noqa: F811
    generator: StoredGenerator,
) -> None:
    work = make_work(object_store)
    build_networks(work)
    assert distil(work) == generator.fingerprint
    Writer(object_store).append_evaluations([evaluation(generator=generator.fingerprint)])
    found = best_generator(object_store, dataset="digits", ipc=10)
    labels = torch.tensor([2, 0, 1])
    assert torch.equal(found.sample(labels, seed=0), generator.sample(labels, seed=0))


def test_best_generator_says_what_there_is_when_nothing_fits(with_rows: str) -> None:
    with pytest.raises(StorageError, match=r"IPC 5.*digits \(IPC 10; on_the_fly; convnet3\)"):
        best_generator(with_rows, dataset="digits", ipc=5)
    with pytest.raises(StorageError, match="no evaluations under"):
        best_generator(f"{with_rows}-empty", dataset="digits", ipc=10)


def test_best_generator_whose_files_were_deleted_says_so(with_rows: str, folder: Path) -> None:
    shutil.rmtree(Path(with_rows) / "generators" / folder.name)
    with pytest.raises(ArtifactError, match=folder.name):
        best_generator(with_rows, dataset="digits", ipc=10)


def test_public_names_are_those_of_the_package() -> None:
    assert dim_ray.best_generator is best_generator
    assert dim_ray.load_generator is load_generator
    assert dim_ray.StoredGenerator is StoredGenerator
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dim_ray.nothing


def test_generator_is_loaded_with_its_average_or_its_raw_weights(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    config = replace(
        work.config,
        generator=replace(work.config.generator, ema_decay=0.9),
        matching=replace(work.config.matching, kind="none"),
    )
    work = replace(work, config=config)
    build_networks(work)
    folder = tmp_path / "generators" / distil(work)
    average, raw = load_generator(folder), load_generator(folder, weights="raw")
    assert (average.weights, raw.weights) == ("average", "raw")
    labels = torch.arange(3)
    assert not torch.equal(average.sample(labels, seed=0), raw.sample(labels, seed=0))
    with pytest.raises(UsageError, match="weights is 'ema'; allowed: average or raw"):
        load_generator(folder, weights="ema")  # type: ignore[arg-type]
