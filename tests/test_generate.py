from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dim_ray.api import load_generator
from dim_ray.cli.main import run_main
from dim_ray.export.image_files import FORMATS
from dim_ray.generate import main
from dim_ray.pipeline import soft_labels
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation
from tests.helpers.small import build_networks, distil, make_work


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with one generator of three classes, and an evaluation of it; not to be changed."""
    root = tmp_path_factory.mktemp("generate")
    work = make_work(root)
    build_networks(work)
    fingerprint = distil(work)
    Writer(str(root)).append_evaluations([evaluation(dataset="tiny", generator=fingerprint, weights="raw")])
    return root


@pytest.fixture
def folder(storage: Path) -> Path:
    return next((storage / "generators").iterdir())


def images_in(out: Path) -> np.ndarray:
    with np.load(out / "images.npz") as loaded:
        images: np.ndarray = loaded["images"]
        return images


def test_images_are_those_of_the_fixed_dataset_of_the_same_seed(folder: Path, tmp_path: Path) -> None:
    main([str(folder), "--ipc", "4", "--seed", "7", "--format", "npz", "--out", str(tmp_path / "out")])
    expected, labels = load_generator(folder).fixed_dataset(ipc=4, seed=7).tensors
    images = images_in(tmp_path / "out")
    np.testing.assert_array_equal(images, (expected * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    assert images.shape == (12, 8, 8, 1)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_candidates_are_those_of_the_fixed_dataset(folder: Path, tmp_path: Path) -> None:
    main([str(folder), "--ipc", "2", "--candidates", "3", "--format", "npz", "--out", str(tmp_path / "out")])
    expected, _ = load_generator(folder).fixed_dataset(2, candidates=3).tensors
    images = images_in(tmp_path / "out")
    np.testing.assert_array_equal(images, (expected * 255).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_latent_steps_are_those_of_the_fixed_dataset(
    storage: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_work(storage).dataset
    monkeypatch.setattr(soft_labels, "stored_data", lambda *_, **__: dataset)
    main([str(folder), "--ipc", "2", "--latent-steps", "3", "--format", "npz", "--out", str(tmp_path / "out")])
    expected, _ = load_generator(folder).fixed_dataset(2, latent_steps=3).tensors
    plain, _ = load_generator(folder).fixed_dataset(2).tensors
    assert not torch.equal(expected, plain)
    images = images_in(tmp_path / "out")
    np.testing.assert_array_equal(images, (expected * 255).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_seed_decides_the_images(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        main([str(folder), "--ipc", "2", "--seed", seed, "--format", "npz", "--out", str(tmp_path / name)])
    first, same, other = (images_in(tmp_path / name) for name in "abc")
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_is_a_choice_and_makes_its_files(
    folder: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    main([str(folder), "--ipc", "2", "--format", form, "--out", str(out)])
    names = {
        "folder": {f"class_{label}/{number}.png" for label in range(3) for number in range(2)},
        "npz": {"images.npz"},
        "parquet": {"train.parquet", "README.md"},
        "torch": {"images.pt"},
    }[form]
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    assert capsys.readouterr().out.startswith(f"6 images, 2 of each of 3 classes, of {folder}\n")
    assert list(out.parent.iterdir()) == [out]  # nothing hidden is left


def test_hugging_face_loads_the_parquet_format_as_its_card_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "out"
    main([str(folder), "--ipc", "4", "--seed", "7", "--format", "parquet", "--out", str(out)])
    expected, labels = load_generator(folder).fixed_dataset(ipc=4, seed=7).tensors
    monkeypatch.chdir(out.parent)
    [block] = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    exec(block, names)
    loaded = names["images"]
    assert loaded.features["label"].names == ["class 0", "class 1", "class 2"]
    assert loaded["label"][:] == labels.tolist()
    pixels = np.stack([np.asarray(image) for image in loaded["image"]])
    np.testing.assert_array_equal(pixels, (expected * 255).round().to(torch.uint8).squeeze(1))
    infos = datasets.info.DatasetInfosDict.from_directory(str(out))["default"]
    assert infos.features == loaded.features
    assert infos.splits["train"].num_examples == len(loaded) == 12
    (out / "README.md").write_text((out / "README.md").read_text().replace("num_examples: 12", "num_examples: 13"))
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):  # so it does read what the card says
        exec(block, names)


def test_without_a_name_it_is_the_best_with_the_weights_that_were_chosen(
    storage: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--storage", str(storage), "--ipc", "1", "--out", str(tmp_path / "best")])
    output = capsys.readouterr().out
    assert str(folder) in output
    assert "raw weights" in output
    main([folder.name, "--storage", str(storage), "--ipc", "1", "--out", str(tmp_path / "named")])
    assert str(folder) in capsys.readouterr().out


def test_what_is_there_is_never_overwritten(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert run_main(main, [str(folder), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (f"error: {tmp_path} is there already; give a new or empty folder.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--ipc", "0"], 2), (["--format", "jpeg"], 2), (["--seed", "x"], 2), (["no_such_generator"], 1), ([], 1)],
)
def test_wrong_arguments_exit_with_an_error_and_write_nothing(
    tmp_path: Path, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_main(main, [*arguments, "--out", str(out), "--storage", str(tmp_path / "nothing")]) == code
    assert capsys.readouterr().err.startswith("error: ")
    assert not out.exists()
