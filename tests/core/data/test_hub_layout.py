from __future__ import annotations

from typing import Any

import pytest
import yaml

from dim_ray.core.data.hub_layout import Layout, plan_layout
from dim_ray.errors import DataError


def plan(*names: str, card: str = "", subset: str | None = None) -> Layout:
    metadata: dict[str, Any] = yaml.safe_load(card) or {}
    return plan_layout(sorted(f"{name}.parquet" for name in names), metadata, subset=subset, where="data")


def counts(*names: str, **options: Any) -> dict[str, int]:
    return {split: len(files) for split, files in plan(*names, **options).splits.items()}


def refused(*names: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        plan(*names, **options)
    return str(caught.value)


TWO = """
configs:
- config_name: small
  data_files: small/*
- config_name: large
  data_files:
  - split: train
    path: large/train*
  - split: test
    path: ["large/test*"]
"""
FILES = ("small/a", "small/b", "large/train-0", "large/test-0")


def test_several_configurations_of_the_card_are_asked_about() -> None:
    assert refused(*FILES, card=TWO) == (
        "data has 2 configurations: small, large. Choose one behind the path: --dataset parquet:...#small"
    )
    assert counts(*FILES, card=TWO, subset="small") == {"train": 2}
    assert counts(*FILES, card=TWO, subset="large") == {"train": 1, "test": 1}
    assert plan(*FILES, card=TWO, subset="large").remarks == ["other configurations left out: 1 (small)"]
    assert "data has no configuration 'smal'; did you mean 'small'?" in refused(*FILES, card=TWO, subset="smal")


@pytest.mark.parametrize("name", ["default: true", "config_name: default"])
def test_the_default_configuration_is_taken_and_the_others_are_named(name: str) -> None:
    card = TWO.replace("config_name: large", f"config_name: large\n  {name}" if "true" in name else name)
    assert counts(*FILES, card=card) == {"train": 1, "test": 1}


def test_folders_side_by_side_are_configurations_and_asked_about() -> None:
    files = ("cropped/train-00000-of-00001", "cropped/test-00000-of-00001", "full/train-00000-of-00001")
    assert "data has 2 configurations: cropped, full" in refused(*files)
    assert counts(*files, subset="cropped") == {"train": 1, "test": 1}
    assert plan(*files, subset="full").remarks == ["other configurations left out: 1 (cropped)"]


def test_a_subset_of_data_without_any_is_refused() -> None:
    assert refused("train", subset="small") == ("data has no configurations. Leave #small out.")


@pytest.mark.parametrize("name", ["2020/train/0000", "train/test/0", "test-train"])
def test_a_file_that_fits_two_splits_is_refused(name: str) -> None:
    names = (name, "2020-test/train/1") if "2020" in name else (name,)
    assert "would be in the splits test and train" in refused(*names)


def test_a_split_called_by_two_words_in_data_is_refused() -> None:
    names = (f"data/{split}-00000-of-00001" for split in ("train", "dev", "validation"))
    assert "has the splits dev and validation, and each would be its validation split" in refused(*names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train-00000-of-00003-1359597a978bc4fa",), "has 1 of the 3 files train-*-of-00003. Add"),
        (("data/train-00001-of-00002",), "has 1 of the 2 files data/train-*-of-00002. Add"),
        (("train_0_of_2", "test"), "has 1 of the 2 files train_*-of-2. Add"),
        (("train/part-00000-of-00002",), "has 1 of the 2 files train/part-*-of-00002. Add"),
        (("train-00000-of-00002-aa", "train-00000-of-00002-bb"), "has two files for one shard of train-*-of-00002"),
        (("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"), "has two sets of files train-*"),
        (("train/0000", "train/0002"), "data/train/0001.parquet is missing, though there is 0002.parquet"),
        (("train", "test-00000-of-00002"), "has 1 of the 2 files test-*-of-00002"),
    ],
)
def test_a_missing_or_doubled_shard_is_refused(names: tuple[str, ...], message: str) -> None:
    assert message in refused(*names)


@pytest.mark.parametrize("names", [("20240101", "20240103"), ("0001", "0003"), ("part-00000-abc", "part-00002-def")])
def test_numbers_that_are_no_shards_may_have_gaps(names: tuple[str, ...]) -> None:
    assert counts(*names) == {"train": 2}


def test_files_that_the_card_declares_must_be_there() -> None:
    assert "data/README.md declares the files large/train*, but there are none" in refused(
        "small/a", "large/test-0", card=TWO, subset="large"
    )


@pytest.mark.parametrize("card", ["configs: 3", "configs: [3]", "dataset_info: words"])
def test_metadata_of_another_form_are_refused_by_name(card: str) -> None:
    assert "in the metadata of data/README.md is no list of mappings" in refused("train", card=card)


def test_files_of_no_split_are_named() -> None:
    assert plan("train", "test", "extra").remarks == ["Parquet files of no split left out: 1 (extra.parquet)"]
    assert plan("data/train-00000-of-00001", "data/extra-00000-of-00001").remarks == [
        "other splits left out: 1 (extra)"
    ]
    assert plan("all").remarks == []


def test_no_training_split_is_refused_with_what_there_is() -> None:
    assert "data has no training split among test.parquet, validation.parquet; looked for" in refused(
        "test", "validation"
    )
