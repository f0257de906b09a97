from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.core.data.parquet import read_parquet
from dim_ray.core.data.splits import Source
from dim_ray.errors import DataError
from tests.helpers.written_images import encode, pixels, write_parquet
from tests.store.conftest import object_store  # noqa: F401  # a fixture


def load(path: Path | str) -> Dataset:
    return load_dataset(DataConfig(dataset=f"parquet:{path}"))


def refused(path: Path | str) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


LABELS = np.arange(20) % 2


def test_a_folder_is_dealt_to_splits_by_file_names(tmp_path: Path) -> None:
    images = {"train": pixels(20, seed=1), "test": pixels(20, seed=2), "valid": pixels(20, seed=3)}
    for split, values in images.items():
        write_parquet(tmp_path / f"{split}.parquet", values, LABELS, names=["cat", "dog"])
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.train.images, images["train"])
    np.testing.assert_array_equal(dataset.validation.images, images["valid"])
    np.testing.assert_array_equal(dataset.test.images, images["test"])
    assert dataset.test.labels.tolist() == LABELS.tolist()
    assert dataset.class_names == ("cat", "dog")


def test_shards_in_data_are_read_in_order(tmp_path: Path) -> None:
    images = pixels(60, channels=3)
    for shard in (2, 0, 1):
        part = images[shard * 20 : shard * 20 + 20]
        write_parquet(tmp_path / "data" / f"train-0000{shard}-of-00003.parquet", part, LABELS)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", pixels(20, channels=3), LABELS)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", pixels(20, channels=3), LABELS)
    (tmp_path / "README.md").write_text("a data set card")
    np.testing.assert_array_equal(load(tmp_path).train.images, images)


def test_a_missing_shard_is_refused_rather_than_trained_without(tmp_path: Path) -> None:
    for shard in (0, 2):
        write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", pixels(20), LABELS)
    assert "has 2 of the 3 files train-*-of-00003. Add" in refused(tmp_path)


def test_a_single_file_gives_all_three_splits(tmp_path: Path) -> None:
    dataset = load(write_parquet(tmp_path / "animals.parquet", pixels(100), np.arange(100) % 4))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (72, 8, 20)
    assert load(tmp_path).digest == dataset.digest


def test_a_file_uri_is_the_same_as_its_path(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    assert load(f"file://{path}").digest == load(path).digest


def test_more_rows_than_a_batch_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dim_ray.core.data.parquet._ROWS_PER_BATCH", 7)
    images = pixels(20)
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / f"{split}.parquet", images, LABELS)
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.train.images, images)
    assert dataset.train.labels.tolist() == LABELS.tolist()


def test_string_labels_are_numbered_by_sorted_name(tmp_path: Path) -> None:
    names = [["pear", "apple", "fig"][index % 3] for index in range(30)]
    write_parquet(tmp_path / "train.parquet", pixels(30), names)
    write_parquet(tmp_path / "test.parquet", pixels(2), ["fig", "apple"])
    dataset = load(tmp_path)
    assert dataset.class_names == ("apple", "fig", "pear")
    assert dataset.test.labels.tolist() == [1, 0]
    write_parquet(tmp_path / "test.parquet", pixels(2), ["fig", "kiwi"])
    assert f"row 1 of {tmp_path / 'test.parquet'} has the label 'kiwi'; allowed: the classes" in refused(tmp_path)


def test_categorical_labels_are_read_as_their_strings(tmp_path: Path) -> None:
    labels = pa.array(["b", "a"] * 10).dictionary_encode()
    assert load(write_parquet(tmp_path / "train.parquet", pixels(20), labels)).class_names == ("a", "b")


def test_fine_labels_are_taken_where_there_are_coarse_ones_too(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), np.arange(20) % 4, label_column="fine_label")
    table = pq.read_table(path)
    pq.write_table(table.append_column("coarse_label", pa.array([0] * 20)), path)
    assert load(path).num_classes == 4


def test_an_only_integer_column_is_the_label(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    assert load(write_parquet(path, pixels(20), LABELS, image_column="scan", label_column="digit")).num_classes == 2


def test_one_colour_image_makes_all_splits_colour(tmp_path: Path) -> None:
    grey, colour = pixels(20), pixels(1, channels=3)[0]
    write_parquet(tmp_path / "train.parquet", grey, LABELS)
    write_parquet(tmp_path / "validation.parquet", [colour, *grey[1:]], LABELS)
    write_parquet(tmp_path / "test.parquet", grey, LABELS)
    dataset = load(tmp_path)
    assert dataset.num_channels == 3
    np.testing.assert_array_equal(dataset.validation.images[0], colour)
    for images in (dataset.train.images, dataset.validation.images[1:]):
        assert images.is_contiguous()
        np.testing.assert_array_equal(images, np.repeat(grey[-len(images) :], 3, axis=1))


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("LA", 1), ("CMYK", 3)]
)
def test_every_8_bit_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int) -> None:
    encoded = []
    for width in (4, 8):
        image = Image.new("RGB", (8, 8), (255, 255, 255))
        image.paste((0, 0, 0), (0, 0, width, 4))
        encoded.append(encode(image.convert(mode), "TIFF" if mode == "CMYK" else "PNG"))
    dataset = load(write_parquet(tmp_path / "train.parquet", encoded * 10, LABELS))
    assert dataset.num_channels == channels
    assert dataset.train.images[:, :, :4, :4].max() == 0
    assert dataset.train.images[:, :, 4:].min() == 255


def test_16_bit_images_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    deep = encode(Image.fromarray(np.full((8, 8), 1000, dtype=np.uint16)))
    path = write_parquet(tmp_path / "train.parquet", [pixels(1)[0], deep, deep, deep], [0, 1, 0, 1])
    assert f"row 1 of {path} has more than 8 bits a channel (mode I;16)" in refused(path)


def test_metadata_of_another_kind_is_no_reason_to_refuse_a_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": "[1, {"}), path)
    assert load(path).class_names == ("0", "1")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere")
    assert f"there is no file or folder {tmp_path / 'nowhere'}" in message
    assert "train, validation, test" in message


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    assert f"{tmp_path} has no Parquet files; looked for names with train, validation, test" in refused(tmp_path)


def test_a_folder_without_a_training_split_lists_what_is_there(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", pixels(20), LABELS)
    assert "has no training split among test.parquet" in refused(tmp_path)


def test_an_unknown_scheme_is_refused() -> None:
    assert "can't be opened" in refused("ftp://host/data")


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data) if keep < 1 else keep)])
    assert refused(path).startswith(f"{path} can't be read as Parquet")


def test_a_corrupt_image_is_named_by_its_row_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dim_ray.core.data.parquet._ROWS_PER_BATCH", 5)
    images = [encode(image) for image in pixels(20)]
    images[17] = images[17][:60]
    path = write_parquet(tmp_path / "train.parquet", images, LABELS)
    assert refused(tmp_path).startswith(f"row 17 of {path} can't be decoded as an image")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_image_are_refused(tmp_path: Path, data: bytes) -> None:
    path = write_parquet(tmp_path / "train.parquet", [*pixels(3), data], [0, 1, 0, 1])
    message = refused(path)
    assert message.startswith(f"row 3 of {path} can't be decoded as an image")
    assert "0x" not in message


def test_an_image_that_is_null_or_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", [*pixels(3), None], [0, 1, 0, 1])
    assert f"row 3 of {path} has no image: image.bytes is null" in refused(path)
    table = pa.table({"image": [{"bytes": None, "path": "elsewhere.png"}] * 4, "label": [0, 1, 0, 1]})
    table = table.set_column(
        0, "image", table["image"].cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    )
    pq.write_table(table, path)
    assert f"row 0 of {path} has no image: image.bytes is null" in refused(path)


def test_mixed_sizes_are_named_with_both_rows_even_across_files(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "train.parquet", pixels(4), [0, 1, 0, 1])
    second = write_parquet(tmp_path / "test.parquet", [*pixels(2), pixels(1, size=16)[0]], [0, 1, 0])
    assert f"row 2 of {second} is 16x16 pixels, but row 0 of {first} is 8x8 pixels" in refused(tmp_path)


def test_images_that_are_not_square_or_of_an_impossible_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_parquet(path, [encode(Image.new("L", (8, 9)))] * 4, [0, 1, 0, 1])
    assert f"row 0 of {path} is 8x9 pixels, which isn't square; allowed" in refused(path)
    write_parquet(path, [encode(Image.new("L", (65, 65)))] * 4, [0, 1, 0, 1])
    assert f"row 0 of {path} is 65x65 pixels; allowed: square images of 8 to 64 pixels" in refused(path)


def test_a_file_without_images_lists_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)
    assert f"{path} has no image column among text (string), label (int64)" in refused(path)


def test_two_image_columns_are_refused_unless_one_has_the_usual_name(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), LABELS, image_column="left")
    table = pq.read_table(path)
    pq.write_table(table.append_column("right", table["left"]), path)
    assert "has several image columns: left, right" in refused(path)
    pq.write_table(table.append_column("image", table["left"]), path)
    assert load(path).num_classes == 2


def test_a_file_without_one_label_column_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), [0.5] * 20, label_column="score")
    assert f"{path} has no label column" in refused(path)
    write_parquet(path, pixels(20), [0.5] * 20)
    assert f"label column 'label' of {path} is of type double; allowed: integers and strings" in refused(path)
    write_parquet(path, pixels(20), LABELS, label_column="a")
    pq.write_table(pq.read_table(path).append_column("b", pa.array(LABELS)), path)
    assert f"{path} has no label column" in refused(path)


@pytest.mark.parametrize(
    ("label", "expected"),
    [(None, "has no label: label is null"), (-1, "has the label -1; allowed: 0 to 1"), (2, "label 2; allowed: 0 to 1")],
)
def test_an_unusable_label_is_named_by_its_row(tmp_path: Path, label: int | None, expected: str) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(4), [0, 1, 1, label], names=["a", "b"])
    message = refused(tmp_path)
    assert f"row 3 of {path}" in message
    assert expected in message


def test_a_test_label_that_training_never_has_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    path = write_parquet(tmp_path / "test.parquet", pixels(2), [1, 2])
    assert f"row 1 of {path} has the label 2; allowed: 0 to 1, for 2 classes" in refused(tmp_path)


def test_labels_with_a_gap_are_refused_without_names(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), 1 + LABELS * 999_999_999)
    assert "2 numbers from 1 to 1000000000; allowed: all of 0 to K-1 for K classes, but 0 is missing" in refused(path)


def test_a_named_class_without_images_is_left_out(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), 2 * LABELS, names=["a", "never", "b"])
    dataset = load(path)
    assert dataset.class_names == ("a", "b")
    assert sorted(dataset.train.labels.unique().tolist()) == [0, 1]
    assert "classes without images left out: 1 (never)" in dataset.remarks


def test_files_that_number_their_classes_differently_are_refused(tmp_path: Path) -> None:
    train = write_parquet(tmp_path / "train.parquet", pixels(20), LABELS, names=["cat", "dog"])
    test = write_parquet(tmp_path / "test.parquet", pixels(20), LABELS, names=["dog", "cat"])
    message = refused(tmp_path)
    assert str(train) in message
    assert str(test) in message
    assert "name their classes differently" in message


def test_a_split_without_rows_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    path = write_parquet(tmp_path / "test.parquet", [], pa.array([], type=pa.int64()))
    assert f"{path} has no rows; the test split needs images" in refused(tmp_path)


def source_of(path: Path | str) -> Source:
    return read_parquet(str(path))


def three_splits(root: Path, test_labels: pa.Array | None) -> Path:
    """Write training and validation with labels, and a test split with those given or without a label column."""
    for split in ("train", "validation"):
        write_parquet(root / f"{split}.parquet", pixels(20), LABELS, names=["cat", "dog"])
    path = write_parquet(root / "test.parquet", pixels(20), LABELS if test_labels is None else test_labels)
    if test_labels is None:
        pq.write_table(pq.read_table(path, columns=["image"]), path)
    return root


@pytest.mark.parametrize(
    "labels", [None, pa.array([-1] * 20), pa.nulls(20, pa.int64()), pa.array([""] * 20), pa.nulls(20, pa.string())]
)
def test_a_test_split_without_labels_is_left_out_and_another_is_held_out(
    tmp_path: Path, labels: pa.Array | None
) -> None:
    dataset = load(three_splits(tmp_path, labels))
    assert dataset.remarks == ("splits without labels left out: 1 (test)",)
    assert (dataset.held_out, len(dataset.train), len(dataset.validation)) == (("test",), 16, 20)


@pytest.mark.parametrize("labels", [[-1] * 19 + [0], [None] * 19 + [1]])
def test_a_test_split_with_few_labels_is_refused_by_row(tmp_path: Path, labels: list[int | None]) -> None:
    assert f"row 0 of {tmp_path / 'test.parquet'} has " in refused(three_splits(tmp_path, pa.array(labels)))


def test_a_test_split_of_one_class_is_refused(tmp_path: Path) -> None:
    message = refused(three_splits(tmp_path, pa.array([0] * 20)))
    assert "The test split of" in message
    assert "has images of only one class" in message


def test_training_without_labels_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), [-1] * 20, names=["cat", "dog"])
    assert f"row 0 of {path} has the label -1" in refused(tmp_path)


def test_classes_left_out_of_the_middle_are_renumbered_in_every_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", pixels(20), 1 + 2 * LABELS, names=["a", "b", "c", "d", "e"])
    source = source_of(tmp_path)
    assert source.class_names == ("b", "d")
    assert source.test is not None
    assert source.train.labels.tolist() == source.test.labels.tolist() == LABELS.tolist()
    assert source.remarks == ("classes without images left out: 3 (a, c, e)",)


def test_rows_that_the_card_promises_must_be_there(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    card = "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: {}\n---\n# Pets\n"
    (tmp_path / "README.md").write_text(card.format(20))
    assert len(source_of(tmp_path).train) == 20
    (tmp_path / "README.md").write_text(card.format(60_000).replace("\n", "\r\n"))
    assert f"{tmp_path}/README.md declares 60,000 rows of train, but there are 20" in refused(tmp_path)


def test_metadata_that_are_no_yaml_are_refused_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    assert f"The metadata of {tmp_path}/README.md can't be read" in refused(tmp_path)


def test_of_the_hubs_cache_the_newest_version_is_read(tmp_path: Path) -> None:
    for seed, revision in enumerate(("0ld", "new")):
        write_parquet(tmp_path / "snapshots" / revision / "train.parquet", pixels(20, seed=seed), LABELS)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("new")
    assert load(tmp_path).content_digest == load(tmp_path / "snapshots" / "new").content_digest


def test_images_and_numbers_may_be_kept_in_dictionaries(tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "plain.parquet", pixels(20), LABELS)
    encoded = pa.array([encode(image) for image in pixels(20)])
    for kind in (pa.binary(), pa.large_binary()):
        path = tmp_path / f"{kind}.parquet"
        table = {"image": encoded.cast(kind).dictionary_encode(), "label": pa.array(LABELS).dictionary_encode()}
        pq.write_table(pa.table(table), path)
        assert load(path).digest == load(plain).digest


def test_a_pointer_of_git_lfs_says_how_to_get_the_file(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{tmp_path / 'train.parquet'} is only a pointer" in refused(tmp_path)


def test_a_folder_of_save_to_disk_says_what_to_write_instead(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"):
        (tmp_path / name).touch()
    assert "It was written by datasets' save_to_disk: write it with to_parquet" in refused(tmp_path)


def test_a_folder_of_other_files_names_them(tmp_path: Path) -> None:
    (tmp_path / "train.csv").touch()
    assert "There are 1 other files: train.csv." in refused(tmp_path)


def test_other_image_columns_and_files_are_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", pixels(20), LABELS)
    table = pq.read_table(path)
    pq.write_table(table.append_column("mask", table["image"]), path)
    for name in ("README.md", "train.csv", ".gitattributes"):
        (tmp_path / name).touch()
    assert source_of(tmp_path).remarks == (
        "other image columns left out: 1 (mask)",
        "other files left out: 1 (train.csv)",
        "hidden and system entries left out: 1 (.gitattributes)",
    )


def test_one_shard_of_several_given_by_its_path_is_read_and_said(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train-00001-of-00003.parquet", pixels(20), LABELS)
    assert source_of(path).remarks == ("one of several shards",)


def test_arrays_of_pixels_are_refused_as_such(tmp_path: Path) -> None:
    table = pa.table({"image": pixels(20).reshape(20, -1).tolist(), "label": LABELS})
    pq.write_table(table, tmp_path / "train.parquet")
    assert "image (list<element: int64>)" in refused(tmp_path)
    assert "Arrays of pixels aren't read" in refused(tmp_path)


def test_a_configuration_is_chosen_behind_the_path(tmp_path: Path) -> None:
    for number, name in enumerate(("cropped", "full")):
        write_parquet(tmp_path / name / "train-00000-of-00001.parquet", pixels(20, seed=number), LABELS)
    assert "has 2 configurations: cropped, full. Choose one behind the path: --dataset parquet:...#cropped" in refused(
        tmp_path
    )
    dataset = load(f"{tmp_path}#full")
    assert dataset.content_digest == load(tmp_path / "full").content_digest
    assert dataset.name == f"{tmp_path.name}_full"


def test_a_name_may_have_the_sign_of_a_configuration(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "take#2" / "train.parquet", pixels(20), LABELS)
    assert load(tmp_path / "take#2").digest == load(path).digest


def test_an_object_store_is_read_as_a_folder(tmp_path: Path, object_store: str) -> None:  # noqa: F811
    for seed, name in enumerate(("small/train/0000", "small/test/0000", "large/train/0000", ".cache/train/0000")):
        write_parquet(tmp_path / f"{name}.parquet", pixels(20, seed=seed), LABELS)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Pets\n")
    filesystem, root = fs.FileSystem.from_uri(object_store)
    filesystem.create_dir(root)
    fs.copy_files(str(tmp_path), root, destination_filesystem=filesystem)
    assert "has 2 configurations: large, small. Choose one" in refused(object_store)
    there, here = (load(f"{uri}#small") for uri in (object_store, tmp_path))
    assert there.digest == here.digest
    assert there.remarks == (
        "other configurations left out: 1 (large)",
        "hidden and system entries left out: 1 (.cache/train/0000.parquet)",
    )
