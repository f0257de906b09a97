"""What other tools find in the files, and that it's the images that went in."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.datasets import ImageFolder

from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.export.image_files import FORMATS, ImageSet, class_folders

NAMES = ("cat", "dog", "eel")
PER_CLASS = 12


def image_set(channels: int = 3, names: tuple[str, ...] = NAMES) -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(len(names)).repeat_interleave(PER_CLASS)
    images = torch.rand(len(labels), channels, 8, 8, generator=rng)
    return ImageSet(images=images, labels=labels, class_names=names, mean=(0.25,) * channels, std=(0.5,) * channels)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def assert_same(dataset: Dataset, images: ImageSet) -> None:
    """Every image is in one of the splits, with its label."""
    parts = [dataset.train, dataset.validation, dataset.test]
    pairs = [pair for part in parts for pair in zip(part.images, part.labels, strict=True)]
    read = {(pixels.numpy().tobytes(), int(label)) for pixels, label in pairs}
    expected = torch.from_numpy(images.as_bytes()).permute(0, 3, 1, 2).contiguous()
    assert read == {(p.numpy().tobytes(), int(label)) for p, label in zip(expected, images.labels, strict=True)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_data_set_of_the_files_is_read_back_as_it_was(tmp_path: Path, form: str, channels: int) -> None:
    images = image_set(channels)
    folder = write(tmp_path, FORMATS[form](images))
    config = DataConfig(dataset=f"{form}:{folder}", validation_fraction=0.25, test_fraction=0.25)
    dataset = load_dataset(config)
    assert dataset.class_names == NAMES
    assert_same(dataset, images)


def test_image_folder_of_torchvision_has_the_same_labels(tmp_path: Path) -> None:
    names = tuple(f"n {9 - number}/x" for number in range(10))  # unsafe, and in no order
    images = image_set(names=names)
    found = ImageFolder(str(write(tmp_path, FORMATS["folder"](images))))
    assert found.targets == images.labels.tolist()
    assert found.classes[0] == "0-n_9_x"
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image, _ in found]), images.as_bytes())


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["dog", "cat"], ["0-dog", "1-cat"]),
        (["a b", "a/b"], ["0-a_b", "1-a_b"]),
        ([str(number) for number in range(11)], [f"{number:02}-{number}" for number in range(11)]),
        (["..", ".hidden"], ["_", "hidden"]),
        (["cat", "猫"], ["cat", "猫"]),
        (["猫", "犬"], ["0-猫", "1-犬"]),
        (["a", "A"], ["0-a", "1-A"]),
        (["A", "a"], ["0-A", "1-a"]),  # one folder on some disks
        (["e\u0301t", "\u00e9t"], ["0-ét", "1-ét"]),
        (["f", "é"], ["0-f", "1-é"]),  # é would come first on disks that store it as e with a mark
        (["-rf", "--help"], ["0-rf", "1-help"]),
        (["CON", "aux.x"], ["0-CON", "1-aux.x"]),
        (["a.", "b "], ["a", "b_"]),
        (["__MACOSX", "a"], ["MACOSX", "a"]),
        (["a" * 300, "b"], ["a" * 80, "b"]),
        (["a" * 300, "a" * 301], ["0-" + "a" * 80, "1-" + "a" * 80]),
        (["cat", "train"], ["cat", "train"]),
        (["test", "train", "validation"], ["0-test", "1-train", "2-validation"]),
    ],
)
def test_class_folders_are_safe_different_and_in_order(names: list[str], folders: list[str]) -> None:
    assert class_folders(names) == folders
    assert folders == sorted(set(folders))


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "猫"),
        ("猫", "犬", "🐱"),
        ("e\u0301t", "\u00e9t", "été"),
        ("Train", "test"),
        ("cat", "test", "train"),
        ("test", "train", "validation"),
        ("eval", "dev"),
        ("train-1", "test-1"),
        ("10", "9", "8"),
        ("@eaDir", "__MACOSX", ".git", "lost+found", "Thumbs.db"),
        ("a/b", "a\\b", "a:b", "a b"),
        ("CON", "nul", "-rf", "~"),
    ],
)
def test_images_and_labels_of_any_class_names_come_back(tmp_path: Path, names: tuple[str, ...]) -> None:
    images = image_set(names=names)
    folder = write(tmp_path / "out", FORMATS["folder"](images))
    dataset = load_dataset(DataConfig(dataset=f"folder:{folder}"))
    assert_same(dataset, images)
    assert ImageFolder(str(folder)).targets == images.labels.tolist()


def test_npz_loads_without_pickle() -> None:
    images = image_set()
    [(name, data)] = FORMATS["npz"](images).items()
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["images"], images.as_bytes())
        np.testing.assert_array_equal(loaded["labels"], images.labels)
        assert tuple(loaded["class_names"]) == NAMES
        assert tuple(loaded["mean"]) == images.mean
    assert name == "images.npz"


def test_torch_file_is_what_condensation_tools_read_and_is_safe_to_load(tmp_path: Path) -> None:
    images = image_set()
    path = write(tmp_path, FORMATS["torch"](images)) / "images.pt"
    loaded = torch.load(path, weights_only=True)
    pixels, labels = loaded["data"][-1]
    assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
    torch.testing.assert_close(pixels * 0.5 + 0.25, images.images)
    assert torch.equal(labels, images.labels)
    assert loaded["class_names"] == list(NAMES)


def test_parquet_file_declares_image_and_class_names_as_the_hub_does(tmp_path: Path) -> None:
    schema = pq.read_schema(write(tmp_path, FORMATS["parquet"](image_set())) / "train.parquet")
    assert json.loads(schema.metadata[b"huggingface"])["info"]["features"] == {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"},
    }
    assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
