from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.errors import DataError
from tests.helpers.written_images import encode, picture, pixels, write_folder


def load(path: Path) -> Dataset:
    return load_dataset(DataConfig(dataset=f"folder:{path}"))


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    return str(caught.value)


def two_classes(seed: int = 0) -> dict[str, np.ndarray]:
    return {"dog": pixels(5, channels=3, seed=seed), "cat": pixels(4, channels=3, seed=seed + 1)}


def test_train_validation_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        write_folder(tmp_path / split, two_classes(10 * seed))
    dataset = load(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.test.labels.tolist() == [0] * 4 + [1] * 5
    for seed, split in enumerate((dataset.train, dataset.validation, dataset.test)):
        expected = two_classes(10 * seed)
        np.testing.assert_array_equal(split.images, np.concatenate([expected["cat"], expected["dog"]]))


def test_class_folders_alone_give_all_three_splits(tmp_path: Path) -> None:
    dataset = load(write_folder(tmp_path, {str(name): pixels(20, size=12, seed=name) for name in range(3)}))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (42, 6, 12)
    assert (dataset.num_classes, dataset.image_size, dataset.num_channels) == (3, 12, 1)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images = {"bus": pixels(5), "train": pixels(5, seed=1), "test": pixels(5, seed=2)}
    assert load(write_folder(tmp_path, images)).class_names == ("bus", "test", "train")


@pytest.mark.parametrize("extension", ["png", "bmp", "ppm", "webp", "PNG", "tiff"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, extension: str) -> None:
    images = pixels(6, channels=3)
    for index, image in enumerate(images):
        folder = tmp_path / "train" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / f"{index}.{extension}", **({"lossless": True} if extension == "webp" else {}))
    for split in ("test", "valid"):
        shutil.copytree(tmp_path / "train", tmp_path / split)
    np.testing.assert_array_equal(load(tmp_path).train.images, np.concatenate([images[0::2], images[1::2]]))


def test_files_of_other_kinds_and_hidden_ones_are_ignored(tmp_path: Path) -> None:
    before = load(write_folder(tmp_path, two_classes())).digest
    (tmp_path / "cat" / "notes.txt").write_text("these are cats")
    (tmp_path / "cat" / "._000.png").write_bytes(b"what a Mac leaves behind")
    for parent in (tmp_path, tmp_path / "cat", tmp_path / "cat" / ".cache" / "old"):
        (parent / ".thumbnails").mkdir(parents=True)
        picture(pixels(1, channels=3, seed=9)[0]).save(parent / ".thumbnails" / "000.png")
    (tmp_path / "README.md").write_text("a card")
    assert load(tmp_path).digest == before


def test_images_in_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    write_folder(tmp_path, two_classes())
    (tmp_path / "cat" / "more").mkdir()
    picture(pixels(1, channels=3)[0]).save(tmp_path / "cat" / "more" / "0.jpg")
    dataset = load(tmp_path)
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 10


def test_a_data_set_below_a_hidden_folder_is_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path / ".cache" / "pets", two_classes())
    assert load(root).class_names == ("cat", "dog")


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "valid", "val", "test"):
        write_folder(tmp_path / split, two_classes())
    assert f"{tmp_path} has val and valid, and each would be its validation split" in refused(tmp_path)
    shutil.rmtree(tmp_path / "val")
    assert load(tmp_path).class_names == ("cat", "dog")


def test_folders_beside_the_splits_are_refused_by_name(tmp_path: Path) -> None:
    for split in ("train", "test", "extra", "more", ".git"):
        write_folder(tmp_path / split, two_classes())
    message = refused(tmp_path)
    assert "has the splits test, train and beside them extra, more, which would be left out" in message
    assert ".git" not in message
    shutil.rmtree(tmp_path / "extra")
    shutil.rmtree(tmp_path / "more")
    assert load(tmp_path).class_names == ("cat", "dog")


def test_a_split_without_class_folders_is_not_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", two_classes())
    (tmp_path / "test").mkdir()
    picture(pixels(1)[0]).save(tmp_path / "test" / "0.png")
    assert "beside them test" in refused(tmp_path)


def test_a_missing_folder_and_a_file_are_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} doesn't exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'} isn't a folder" in refused(tmp_path / "file")


def test_an_empty_folder_and_an_empty_class_are_named(tmp_path: Path) -> None:
    assert f"{tmp_path} has no folders; looked for" in refused(tmp_path)
    write_folder(tmp_path, two_classes())
    (tmp_path / "cow").mkdir()
    message = refused(tmp_path)
    assert f"{tmp_path / 'cow'} has no images; looked for .png, .jpg" in message


def test_test_classes_that_differ_from_training_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", two_classes())
    write_folder(tmp_path / "test", {"cat": pixels(3), "horse": pixels(3)})
    assert f"missing: {tmp_path / 'test' / 'dog'}, {tmp_path / 'train' / 'horse'}. Every" in refused(tmp_path)


def test_a_test_split_without_training_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "test", two_classes())
    assert f"but no {tmp_path / 'train'}" in refused(tmp_path)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, two_classes())
    path = tmp_path / "dog" / "002.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert refused(tmp_path).startswith(f"{path} can't be decoded as an image")


def test_mixed_sizes_name_both_files(tmp_path: Path) -> None:
    write_folder(tmp_path, two_classes())
    path = tmp_path / "dog" / "002.png"
    path.write_bytes(encode(Image.new("RGB", (8, 10))))
    message = refused(tmp_path)
    assert f"{path} is 8x10 pixels, but {tmp_path / 'cat' / '000.png'} is 8x8 pixels" in message


@pytest.mark.parametrize(
    ("size", "reason"), [(9_000, "is 9000x9000 pixels; allowed"), (30_000, "can't be decoded as an image")]
)
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, size: int, reason: str) -> None:
    write_folder(tmp_path, two_classes())
    path = tmp_path / "cat" / "000.png"
    data = bytearray(encode(Image.new("L", (8, 8))))
    data[16:24] = size.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    assert refused(tmp_path).startswith(f"{path} {reason}")
