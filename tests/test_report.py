from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dim_ray.errors import StorageError, UsageError
from dim_ray.report import main, parse_arguments
from dim_ray.store.writer import Writer
from tests.helpers.made_rows import evaluation, real_evaluation


@pytest.fixture
def storage(tmp_path: Path) -> str:
    root = str(tmp_path / "storage")
    Writer(root).append_evaluations(
        [
            evaluation(),
            evaluation(dataset="mnist", accuracy=0.77),
            evaluation(protocol="fixed", accuracy=0.55),
            real_evaluation(protocol="real_on_the_fly", accuracy=0.95),
        ]
    )
    return root


def test_the_page_and_its_figures_are_written_and_written_again(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    main(["--storage", storage, "--output", str(folder)])
    assert str(folder / "report.html") in capsys.readouterr().out
    (folder / "report.html").write_text("old")
    (folder / "notes.txt").write_text("mine")
    main(["--storage", storage, "--output", str(folder)])
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert (folder / "figures" / "best-digits.svg").read_text().startswith("<?xml")
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "notes.txt", "report.html"]


def test_figures_of_names_in_any_script_have_files_of_their_own(tmp_path: Path) -> None:
    Writer(str(tmp_path / "s")).append_evaluations([evaluation(dataset=name) for name in ("数据", "猫", "cats_2")])
    main(["--storage", str(tmp_path / "s"), "--output", str(tmp_path / "out")])
    names = {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert {"best-数据.svg", "best-猫.svg", "best-cats-2.svg"} <= names


def test_filters_limit_the_page_and_keep_the_real_images_beside_a_protocol(storage: str, tmp_path: Path) -> None:
    filters = ["--dataset", "digits", "--protocol", "on_the_fly", "--ipc", "10", "--architecture", "convnet3"]
    main(["--storage", storage, "--output", str(tmp_path), *filters])
    html = (tmp_path / "report.html").read_text()
    assert "90.0 %" in html
    assert "reach 95.0 %" in html
    assert "mnist" not in html
    assert "55.0" not in html
    assert "limited to dataset digits, ipc 10, architecture convnet3, protocol on_the_fly" in html


def test_an_empty_storage_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no evaluations under .*: run python -m dim_ray\.tune"):
        main(["--storage", str(tmp_path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_filter_that_nothing_fits_says_what_there_is(storage: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no evaluations with dataset digit under .* did you mean 'digits'"):
        main(["--storage", storage, "--output", str(tmp_path), "--dataset", "digit"])
    with pytest.raises(StorageError, match="have all of"):
        main(["--storage", storage, "--output", str(tmp_path), "--dataset", "mnist", "--protocol", "fixed"])


def test_an_output_that_is_a_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match=r"--output is .* which is a file"):
        main(["--storage", str(tmp_path / "none"), "--output", str(tmp_path / "out")])


@pytest.mark.parametrize("output", ["s3:/bucket/report", "ftp://bucket/report", ""])
def test_an_output_that_is_no_place_is_refused_before_anything_is_read(tmp_path: Path, output: str) -> None:
    with pytest.raises(UsageError, match="--output: the storage root"):
        main(["--storage", str(tmp_path / "none"), "--output", output])


def test_a_disk_that_is_full_is_told_with_the_flag_of_the_output(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dim_ray.store.files.filesystem._write_through", fill)
    with pytest.raises(StorageError, match=r"the disk is full; .* with --output"):
        main(["--storage", storage, "--output", str(tmp_path / "out")])


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown flag --outptu; did you mean --output"):
        parse_arguments(["--outptu", "x"])


def test_a_folder_that_cannot_be_made_is_named(storage: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't write .*file/out/.* is a file where a folder is needed"):
        main(["--storage", storage, "--output", str(tmp_path / "file" / "out")])
