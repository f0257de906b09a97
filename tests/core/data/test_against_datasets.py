"""The reader gives what Hugging Face's own `datasets` gives for the same folders: splits, counts, labels, pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from dim_ray.core.data.folder import read_folder
from dim_ray.core.data.parquet import read_parquet
from dim_ray.core.data.split_names import role_of
from dim_ray.core.data.splits import Source
from tests.helpers.written_images import encode, picture, pixels, write_folder, write_parquet

NAMES = ("ant", "bee", "cow")
LABELS = np.arange(12) % 3

CARD = """---
license: mit
configs:
- config_name: grey
  data_files:
  - split: train
    path: grey/part-*
  - split: test
    path: [grey/held/one.parquet, grey/held/two.parquet]
- config_name: colour
  default: true
  data_dir: colour
dataset_info:
- config_name: grey
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': ant
          '1': bee
          '2': cow
  splits:
  - name: train
    num_examples: 24
  - name: test
    num_examples: 24
---
# Insects
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """`datasets.load_dataset`, without network and with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        import datasets

        yield datasets.load_dataset


def write(path: Path, seed: int = 0, **options: Any) -> None:
    """Write 12 images, 4 of every class."""
    options = {"names": NAMES, "labels": LABELS, **options}
    write_parquet(path, options.pop("images", pixels(12, seed=seed)), options.pop("labels"), **options)


def data_shards(root: Path) -> None:
    for shard in range(3):
        write(root / f"data/train-0000{shard}-of-00003.parquet", shard)
    write(root / "data/test-00000-of-00001.parquet", 7)
    write(root / "notes/validation.parquet", 8)  # left out, as data/ has shards


def hashed_shards(root: Path) -> None:
    for shard, digest in enumerate(("1359597a978bc4fa", "0c5a7b3f00112233")):
        write(root / f"data/train-0000{shard}-of-00002-{digest}.parquet", shard)
    write(root / "data/validation-00000-of-00001-beefbeefbeefbeef.parquet", 7)


def configuration_folder(root: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        write(root / f"mnist/{split}-00000-of-00001.parquet", seed)


def split_folders(root: Path) -> None:
    for seed, name in enumerate(("train/0000", "train/0001", "validation/0000", "test/0000")):
        write(root / f"data/{name}.parquet", seed)


def converted_branch(root: Path) -> None:
    for seed, name in enumerate(("partial-train/0000", "test/0000")):
        write(root / f"default/{name}.parquet", seed)


def other_words(root: Path) -> None:
    for seed, name in enumerate(("training", "dev", "eval")):
        write(root / f"{name}.parquet", seed)


def words_within_names(root: Path) -> None:
    for seed, name in enumerate(("insects_train", "insects-test.v2", "insects 2.valid")):
        write(root / f"{name}.parquet", seed)


def no_words(root: Path) -> None:
    for seed, name in enumerate(("one", "two", "sub/three")):
        write(root / f"{name}.parquet", seed)


def hidden_files(root: Path) -> None:
    write(root / "train.parquet")
    for seed, name in enumerate((".cache/train.parquet", "__pycache__/train.parquet", ".train.parquet")):
        write(root / name, 9 + seed)
    (root / "LICENSE").write_text("MIT")


def other_split_in_data(root: Path) -> None:
    for seed, split in enumerate(("train", "test", "extra")):
        write(root / f"data/{split}-00000-of-00001.parquet", seed)


def turned_images(root: Path) -> None:
    for orientation in range(1, 9):
        encoded = []
        for image in pixels(12, channels=3, seed=orientation):
            tags, data = Image.Exif(), io.BytesIO()
            tags[274] = orientation
            picture(image).save(data, "JPEG" if orientation % 2 else "PNG", exif=tags)
            encoded.append(data.getvalue())
        write(root / f"train-0000{orientation - 1}-of-00008.parquet", images=encoded)


def string_labels(root: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        write(root / f"{split}.parquet", seed, labels=[NAMES[label] for label in LABELS], names=None)


def dictionary_labels(root: Path) -> None:
    write(root / "train.parquet", labels=pa.array([NAMES[label] for label in LABELS]).dictionary_encode(), names=None)


def image_called_img(root: Path) -> None:
    write(root / "train.parquet", image_column="img", label_column="labels")


def image_called_pixel_values(root: Path) -> None:
    write(root / "train.parquet", image_column="pixel_values", label_column="insect")


def zstd_and_small_row_groups(root: Path) -> None:
    write(root / "train.parquet")
    table = pq.read_table(root / "train.parquet")
    pq.write_table(table, root / "train.parquet", compression="zstd", row_group_size=5)


def bytes_without_struct(root: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": list(NAMES), "_type": "ClassLabel"}}
    table = pa.table({"image": [encode(image) for image in pixels(12)], "label": LABELS})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, root / "train.parquet")


def names_only_in_the_card(root: Path) -> None:
    for seed, name in enumerate(("part-a", "part-b", "held/one", "held/two")):
        write(root / f"grey/{name}.parquet", seed, names=None)
    write(root / "colour/train.parquet", images=pixels(12, channels=3))
    (root / "README.md").write_text(CARD)


def a_class_without_images(root: Path) -> None:
    write(root / "train.parquet", labels=1 + np.arange(12) % 2)


LAYOUTS: list[Callable[[Path], None]] = [
    data_shards, hashed_shards, configuration_folder, split_folders, converted_branch, other_words, words_within_names,
    no_words, hidden_files, other_split_in_data, turned_images, string_labels, dictionary_labels, image_called_img,
    image_called_pixel_values, zstd_and_small_row_groups, bytes_without_struct, a_class_without_images,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_parquet_is_read_as_datasets_reads_it(
    layout: Callable[[Path], None], tmp_path: Path, hub: Callable[..., Any]
) -> None:
    layout(tmp_path)
    check_same(read_parquet(str(tmp_path)), hub(str(tmp_path)))


@pytest.mark.parametrize("subset", ["grey", "colour", None])
def test_a_configuration_of_the_card_is_read_as_datasets_reads_it(
    subset: str | None, tmp_path: Path, hub: Callable[..., Any]
) -> None:
    names_only_in_the_card(tmp_path)
    check_same(read_parquet(f"{tmp_path}#{subset}" if subset else str(tmp_path)), hub(str(tmp_path), subset))


@pytest.mark.parametrize("splits", [("train", "test"), ("training", "testing"), ("my_train", "my_dev"), ("",)])
def test_folders_are_read_as_imagefolder_reads_them(
    splits: Sequence[str], tmp_path: Path, hub: Callable[..., Any]
) -> None:
    for seed, split in enumerate(splits):
        write_folder(tmp_path / split, {"cat": pixels(4, seed=seed), "dog": pixels(3, seed=9 + seed)})
        (tmp_path / split / "cat" / ".thumbnails").mkdir()
        picture(pixels(1)[0]).save(tmp_path / split / "cat" / ".thumbnails" / "000.png")
        picture(pixels(1, seed=5)[0]).save(tmp_path / split / "dog" / "more.jfif", "JPEG")
        picture(pixels(1, seed=6)[0]).save(tmp_path / split / "dog" / "more.gif")
    check_same(read_folder(str(tmp_path)), hub(str(tmp_path)), ordered=False)


def check_same(source: Source, expected: Any, *, ordered: bool = True) -> None:
    """Compare images and labels; splits without a role, such as `extra`, have no counterpart here."""
    splits = {"train": source.train, "validation": source.validation, "test": source.test}
    found = {role for role, split in splits.items() if split is not None}
    assert found == {role for name in expected if (role := role_of(name))}
    for name, rows in expected.items():
        role = role_of(name)
        if role is None:
            continue
        split = splits[role]
        assert split is not None
        assert len(split) == len(rows)
        ours = [
            (source.class_names[label], np.broadcast_to(image, (3, *image.shape[1:])).tobytes())
            for label, image in zip(split.labels.tolist(), split.images.numpy(), strict=True)
        ]
        theirs = [(label_of(rows, row), as_array(row).tobytes()) for row in rows]
        assert ours == theirs if ordered else sorted(ours) == sorted(theirs)


def label_of(rows: Any, row: dict[str, Any]) -> str:
    column = next(name for name in rows.features if name in ("label", "labels", "insect"))
    names = getattr(rows.features[column], "names", None)
    return str(names[row[column]] if names else row[column])


def as_array(row: dict[str, Any]) -> NDArray[np.uint8]:
    """Return an image (3, H, W); without the Hub's metadata it's still encoded."""
    image = next(row[name] for name in ("image", "img", "pixel_values") if name in row)
    encoded = image["bytes"] if isinstance(image, dict) else image
    if isinstance(encoded, bytes):
        image = Image.open(io.BytesIO(encoded))
    return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
