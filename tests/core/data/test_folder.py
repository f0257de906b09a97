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


SPLIT_WORDS = [
    ("training", "testing", "validation"), ("Train", "TEST", "Val"), ("train", "eval", "dev"),
    ("train_set", "test_set", "val_set"), ("flowers-train", "flowers-test", "flowers.dev"),
    ("1 train", "2 evaluation", "valid"),
]  # fmt: skip


@pytest.mark.parametrize("words", SPLIT_WORDS, ids=",".join)
def test_splits_have_the_names_that_people_give_them(tmp_path: Path, words: tuple[str, str, str]) -> None:
    for count, word in zip((6, 4, 2), words, strict=True):
        write_folder(tmp_path / word, {"cat": pixels(count), "dog": pixels(count, seed=1)})
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.test), len(dataset.validation)) == (12, 8, 4)
    assert dataset.class_names == ("cat", "dog")


@pytest.mark.parametrize("names", [("test tube", "petri dish"), ("train station", "bus stop"), ("eval-board", "cable")])
def test_classes_may_have_names_with_a_splits_word(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_folder(tmp_path / name, {"camera 1": pixels(5)})
    assert load(tmp_path).class_names == tuple(sorted(names))


def test_splits_without_class_folders_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": pixels(5), "test": pixels(5)})
    assert f"{tmp_path} has the splits test, train, but no folder for every class in them" in refused(tmp_path)


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("labelled", "unlabelled"), ("part a", "part b")])
def test_folders_that_have_only_class_folders_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_folder(tmp_path / name, two_classes())
    message = refused(tmp_path)
    assert f"{tmp_path / names[0]} would be one class, but its images are in 2 folders of its own (cat, dog)" in message


def test_linked_folders_and_images_are_read(tmp_path: Path) -> None:
    everything = two_classes()
    write_folder(tmp_path / "whole", everything)
    write_folder(tmp_path / "data", {name: images[:2] for name, images in everything.items()})
    for name in everything:
        write_folder(tmp_path / "more", {name: everything[name][2:]})
        (tmp_path / "data" / name / "linked").symlink_to(tmp_path / "more" / name)
    assert load(tmp_path / "data").digest == load(tmp_path / "whole").digest


@pytest.mark.parametrize(
    ("ending", "kind"),
    [(".jfif", "JPEG"), (".jpe", "JPEG"), (".gif", "GIF"), (".tga", "TGA"), (".ico", "ICO"), (".pcx", "PCX"),
     (".avif", "AVIF"),     (".jp2", "JPEG2000"), (".JPG~", "JPEG"), (".png.bak", "PNG"), ("", "PNG"),
     (".1", "WEBP")],
)  # fmt: skip
def test_every_format_that_pillow_reads_is_read_whatever_the_file_is_called(
    tmp_path: Path, ending: str, kind: str
) -> None:
    write_folder(tmp_path, {name: pixels(5, size=16, channels=3) for name in ("cat", "dog")})
    picture(pixels(1, size=16, channels=3, seed=3)[0]).save(tmp_path / "cat" / f"one{ending}", kind)
    dataset = load(tmp_path)
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 11
    assert dataset.remarks == ()


@pytest.mark.parametrize("ending", [".heic", ".SVG", ".npy", ".dcm", ".h5", ".mat", ".dng", ".eps"])
def test_images_of_a_format_that_cannot_be_read_are_refused_by_name(tmp_path: Path, ending: str) -> None:
    write_folder(tmp_path, two_classes())
    (tmp_path / "cat" / f"one{ending}").write_bytes(b"something")
    assert f"{tmp_path / 'cat' / f'one{ending}'} is of a format that can't be read" in refused(tmp_path)


def test_what_was_left_out_is_said_with_counts_and_names(tmp_path: Path) -> None:
    write_folder(tmp_path, two_classes())
    for name in ("labels.csv", "cat/notes.txt", "cat/@eaDir/000.png", "dog/Thumbs.db", "__MACOSX/cat/._000.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("nothing")
    picture(pixels(1)[0]).save(tmp_path / "overview.png")
    assert load(tmp_path).remarks == (
        "images outside of class folders left out: 1 (overview.png)",
        "other files left out: 2 (cat/notes.txt, labels.csv)",
        "hidden and system entries left out: 3 (__MACOSX, cat/@eaDir, dog/Thumbs.db)",
    )


def test_many_classes_that_differ_make_a_short_message(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / "train" / f"n{number:08}" / "images").mkdir(parents=True)
    (tmp_path / "val" / "images").mkdir(parents=True)
    message = refused(tmp_path)
    assert "and 196 more" in message
    assert len(message) < 700
