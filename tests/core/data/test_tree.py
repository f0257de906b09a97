from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dim_ray.core.data.tree import is_passed_over, read_tree, remark
from dim_ray.errors import DataError
from tests.store.conftest import closed_folder  # noqa: F401  # a fixture


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_tree(root)
    return str(caught.value)


def test_files_are_listed_with_links_to_folders_and_files_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "1.png", "deep/2.png")
    root = write(tmp_path / "data", "a/0.png")
    (root / "a/more").symlink_to(tmp_path / "elsewhere")
    (root / "a/3.png").symlink_to(tmp_path / "elsewhere/1.png")
    assert read_tree(root).files_below() == ["a/0.png", "a/3.png", "a/more/1.png", "a/more/deep/2.png"]


def test_one_folder_may_be_linked_twice(tmp_path: Path) -> None:
    root = write(tmp_path, "a/0.png", "b/1.png")
    (root / "c").symlink_to(root / "a")
    assert read_tree(root).files_below() == ["a/0.png", "b/1.png", "c/0.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../loop"])
def test_a_loop_of_links_is_refused_by_name(tmp_path: Path, target: str) -> None:
    root = write(tmp_path, "a/deep/0.png")
    (root / "a/loop").symlink_to(target)
    assert str(root / "a/loop") in refused(root)


def test_two_links_into_each_other_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "a/0.png", "b/1.png")
    (root / "a/to_b").symlink_to(root / "b")
    (root / "b/to_a").symlink_to(root / "a")
    assert "which contains it" in refused(root)


def test_a_link_to_nothing_is_refused_by_name(tmp_path: Path) -> None:
    root = write(tmp_path, "a/0.png")
    (root / "a/1.png").symlink_to("../gone.png")
    assert f"{root / 'a/1.png'} is a link to ../gone.png, where there is nothing" in refused(root)


def test_a_folder_that_cannot_be_listed_is_refused_by_name(closed_folder: Path) -> None:  # noqa: F811
    assert f"{closed_folder} can't be listed" in refused(closed_folder)


FOLDERS = [
    ".git", ".ipynb_checkpoints", "@eaDir", "@EADIR", "__MACOSX", "__pycache__", "#recycle", "$RECYCLE.BIN",
    "lost+found", "System Volume Information",
]  # fmt: skip
FILES = [".DS_Store", "._0.png", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"]


@pytest.mark.parametrize("name", [*(f"{name}/0.png" for name in FOLDERS), *FILES])
def test_what_systems_leave_behind_is_passed_over_and_named(tmp_path: Path, name: str) -> None:
    tree = read_tree(write(tmp_path, "a/0.png", f"a/{name}"))
    assert tree.files_below() == ["a/0.png"]
    assert tree.passed_over_below() == [f"a/{name.removesuffix('/0.png')}"]


@pytest.mark.parametrize("name", ["@", "#", "$", "_", "a.b", "猫", "-", "~", "thumbs", "back up", "+"])
def test_odd_names_of_classes_are_no_reason_to_pass_them_over(name: str) -> None:
    assert not is_passed_over(name, is_folder=True)


def test_a_pipe_is_passed_over_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(write(tmp_path, "a/0.png") / "a/pipe.png")
    assert read_tree(tmp_path).passed_over_below() == ["a/pipe.png"]


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    subprocess.run(["sh", "-c", r'mkdir "$0/a" && printf x > "$0/a/$(printf "\377").png"', tmp_path], check=True)
    (name,) = read_tree(tmp_path).files_below()
    assert (tmp_path / name).read_text() == "x"


def test_a_remark_counts_and_has_the_first_names() -> None:
    assert remark("other files left out", []) == []
    assert remark("other files left out", (f"{n}.txt" for n in range(1200))) == [
        "other files left out: 1,200 (0.txt, 1.txt, 2.txt and 1,197 more)"
    ]
