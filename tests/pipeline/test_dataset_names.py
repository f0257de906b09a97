"""Whose a data set's name is in a storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dim_ray.config import Config, DataConfig, fingerprint
from dim_ray.core.data.dataset import Dataset, load_dataset
from dim_ray.errors import ArtifactError, NewerFormatError, UsageError
from dim_ray.pipeline.dataset_names import keep_name, with_own_name
from dim_ray.store.artifacts import ArtifactStore
from dim_ray.store.writer import Writer
from tests.helpers.altered_cards import edit_card
from tests.helpers.made_rows import evaluation
from tests.helpers.small import make_config
from tests.helpers.written_images import pixels, write_folder, write_parquet
from tests.store.conftest import object_store  # noqa: F401  # a fixture


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


def written(folder: Path, seed: int = 0, count: int = 20) -> Path:
    """Write random images of two classes, others for another seed."""
    return write_folder(folder, {name: pixels(count, seed=2 * seed + place) for place, name in enumerate(("a", "b"))})


def opened(storage: Path, folder: Path | str, keep: bool = True, **data: object) -> tuple[Config, Dataset, list[str]]:
    """Name the data as a command that writes rows does, and return what was told, too."""
    source = folder if isinstance(folder, str) else f"folder:{folder}"
    config = make_config(storage, data=DataConfig(dataset=source, **data))  # type: ignore[arg-type]
    told: list[str] = []
    config, dataset = with_own_name(config, load_dataset(config.data), told.append)
    if keep:
        keep_name(config, dataset)
    return config, dataset, told


def test_other_data_of_the_same_name_get_a_digest_and_keep_it(tmp_path: Path, storage: Path) -> None:
    first, second = written(tmp_path / "x/images"), written(tmp_path / "y/images", seed=1)
    config, dataset, told = opened(storage, first)
    assert (dataset.name, config.data.name, told) == ("images", None, [])
    for _ in range(2):  # the second time as when a study is continued
        config, dataset, told = opened(storage, second)
        own = f"images-{dataset.content_digest[:8]}"
        assert (dataset.name, config.data.name, config.data.label) == (own, own, own)
        assert told == [f"images is the name of other data in {storage} (folder:{first}); these are {own}"]
    assert opened(storage, first)[1].name == "images"
    assert opened(storage, second, name=own)[2] == []  # as commands for the next step have it


def test_name_that_is_free_or_ours_changes_no_fingerprint(tmp_path: Path, storage: Path) -> None:
    folder = written(tmp_path / "images")
    for _ in range(2):
        config, _, _ = opened(storage, folder)
        assert fingerprint(config) == fingerprint(make_config(storage, data=DataConfig(dataset=f"folder:{folder}")))


def test_splits_of_our_own_do_not_make_other_data_and_the_source_does_not_matter(tmp_path: Path, storage: Path) -> None:
    first = written(tmp_path / "images")
    opened(storage, first)
    for data in ({"split_seed": 1}, {"validation_fraction": 0.4}, {"test_fraction": 0.4}):
        assert opened(storage, first, **data)[1].name == "images"
    assert opened(storage, written(tmp_path / "copy/images"))[1].name == "images"


@pytest.mark.parametrize("change", ["images", "labels", "classes", "count"])
def test_whatever_makes_other_data_makes_another_name(tmp_path: Path, storage: Path, change: str) -> None:
    opened(storage, written(tmp_path / "x/images"))
    other = written(tmp_path / "y/images", seed=int(change == "images"), count=21 if change == "count" else 20)
    if change == "labels":
        (other / "a").rename(other / "c")
        (other / "b").rename(other / "a")
        (other / "c").rename(other / "b")
    if change == "classes":
        (other / "b").rename(other / "c")
    assert opened(storage, other)[1].name.startswith("images-")


def test_given_name_of_other_data_is_refused(tmp_path: Path, storage: Path) -> None:
    first = written(tmp_path / "x/images")
    opened(storage, first, name="mine")
    with pytest.raises(UsageError, match=r"data\.name is 'mine', which is the name of other data .*x/images"):
        opened(storage, written(tmp_path / "y/other", seed=1), name="mine")
    assert opened(storage, first, name="another")[1].name == "another"


def test_known_name_belongs_to_whoever_has_it(tmp_path: Path, storage: Path) -> None:
    images = [*pixels(20, seed=0), *pixels(20, seed=1)]
    write_parquet(tmp_path / "digits/train.parquet", images, [0] * 20 + [1] * 20)
    opened(storage, f"parquet:{tmp_path / 'digits'}")
    assert opened(storage, "digits")[1].name.startswith("digits-")


def test_names_that_differ_in_capitals_are_one_name(tmp_path: Path, storage: Path) -> None:
    """On some disks they are one folder."""
    opened(storage, written(tmp_path / "x/Bilder"))
    assert opened(storage, written(tmp_path / "y/bilder"))[1].name == "Bilder"
    assert opened(storage, written(tmp_path / "z/BILDER", seed=1))[1].name.startswith("BILDER-")


@pytest.mark.parametrize(("given", "name"), [("2024", "data-2024"), ("null", "data-null")])
def test_given_name_that_would_be_misread_is_told(tmp_path: Path, storage: Path, given: str, name: str) -> None:
    config, dataset, told = opened(storage, written(tmp_path / "images"), name=given)
    assert (config.data.name, dataset.name) == (name, name)
    assert told == [f"data.name is {given!r}; in rows and paths it is {name}"]


@pytest.mark.parametrize(("current", "path"), [("", "."), ("", "./"), ("", "a/.."), ("a", ".."), ("a", "../")])
def test_path_without_a_name_has_that_of_the_folder(
    tmp_path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch, current: str, path: str
) -> None:
    monkeypatch.chdir(written(tmp_path / "数据") / current)
    config, dataset, _ = opened(storage, f"folder:{path}")
    assert (dataset.name, config.data.label) == ("数据", "数据")


def test_rows_without_a_card_keep_their_name_to_themselves(tmp_path: Path, storage: Path) -> None:
    """They are of an older version, which kept no cards."""
    ours = load_dataset(DataConfig(dataset=f"folder:{written(tmp_path / 'x/images')}"))
    Writer(str(storage)).append_evaluations([evaluation(dataset="images", data_fingerprint=ours.digest)])
    _, dataset, told = opened(storage, written(tmp_path / "y/images", seed=1))
    assert dataset.name.startswith("images-")
    assert "rows of an earlier version" in told[0]
    assert opened(storage, tmp_path / "x/images")[1].name == "images"


def test_command_that_writes_no_rows_takes_no_name(tmp_path: Path, storage: Path) -> None:
    opened(storage, written(tmp_path / "x/images"), keep=False)
    assert not (storage / "datasets").exists()
    assert opened(storage, written(tmp_path / "y/images", seed=1))[1].name == "images"


def test_name_that_another_process_takes_meanwhile_is_not_shared(tmp_path: Path, storage: Path) -> None:
    config, dataset, _ = opened(storage, written(tmp_path / "x/images"), keep=False)
    opened(storage, written(tmp_path / "y/images", seed=1))
    with pytest.raises(UsageError, match=r"has just become the name of other data .*y/images.* again"):
        keep_name(config, dataset)


def test_card_says_what_the_data_are(tmp_path: Path, storage: Path) -> None:
    _, dataset, _ = opened(storage, written(tmp_path / "images"))
    card = ArtifactStore(str(storage)).read_card("datasets", "images")
    assert card["source"] == f"folder:{tmp_path / 'images'}"
    assert card["digest"] == dataset.content_digest
    assert (card["class_names"], card["num_images"], card["image_size"]) == (["a", "b"], 40, 8)


@pytest.mark.parametrize("harm", ["altered", "truncated", "newer"])
def test_harmed_card_is_named_and_never_replaced(tmp_path: Path, storage: Path, harm: str) -> None:
    folder = written(tmp_path / "images")
    opened(storage, folder)
    path = storage / "datasets/images/card.json"
    change = {"format_version": 99} if harm == "newer" else {"digest": 16 * "0"}
    edit_card(path.parent, lambda card: card.update(change), is_sealed=harm == "newer")
    path.write_bytes(path.read_bytes()[: -9 if harm == "truncated" else None])
    before = path.read_bytes()
    with pytest.raises(NewerFormatError if harm == "newer" else ArtifactError, match="datasets/images"):
        opened(storage, folder)
    assert path.read_bytes() == before


def test_names_on_an_object_store(tmp_path: Path, object_store: str) -> None:  # noqa: F811
    first, second = written(tmp_path / "x/数据"), written(tmp_path / "y/数据", seed=1)
    config = make_config(object_store, data=DataConfig(dataset=f"folder:{first}"))
    config, dataset = with_own_name(config, load_dataset(config.data), print)
    keep_name(config, dataset)
    other = replace(config, data=DataConfig(dataset=f"folder:{second}"))
    other, others = with_own_name(other, load_dataset(other.data), print)
    keep_name(other, others)
    assert (dataset.name, others.name) == ("数据", f"数据-{others.content_digest[:8]}")
