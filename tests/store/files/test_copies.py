from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest

from dim_ray.errors import StorageError
from dim_ray.progress.notices import told
from dim_ray.store.files import copies
from dim_ray.store.files.copies import Copy
from dim_ray.store.files.filesystem import open_root
from tests.helpers.s3 import Fault, Proxy

KEY = "studies/tiny/optuna.journal.gz"


def copied(root: str) -> bytes | None:
    data = open_root(root).read(KEY)
    return None if data is None else gzip.decompress(data)


def test_growing_file_is_copied_by_the_clock_and_at_the_end_with_whole_lines(tmp_path: Path, object_store: str) -> None:
    path = tmp_path / "journal"
    with Copy(path, open_root(object_store), KEY, every_seconds=0.2):
        path.write_text("one\ntw")
        until = time.monotonic() + 30
        while copied(object_store) is None and time.monotonic() < until:
            time.sleep(0.1)
        assert copied(object_store) == b"one\n"
        path.write_text("one\ntwo\n")
    assert copied(object_store) == b"one\ntwo\n"


def test_file_is_copied_at_once_on_demand(tmp_path: Path, object_store: str) -> None:
    path = tmp_path / "journal"
    with Copy(path, open_root(object_store), KEY) as copy:
        path.write_text("one\n")
        copy.hurry()
        until = time.monotonic() + 30
        while copied(object_store) is None and time.monotonic() < until:
            time.sleep(0.1)
        assert copied(object_store) == b"one\n"


def test_file_that_has_not_grown_is_not_copied_again(tmp_path: Path, object_store: str) -> None:
    path = tmp_path / "journal"
    path.write_text("one\n")
    with Proxy() as proxy:
        copy = Copy(path, open_root(proxy.uri(open_root(object_store).path)), KEY)
        for _ in range(3):
            copy.put()
        assert [request.method for request in proxy.requests] == ["PUT"]


def test_copy_is_continued(tmp_path: Path, object_store: str) -> None:
    path = tmp_path / "journal"
    for line in ("one\n", "two\n"):
        copy = Copy(path, open_root(object_store), KEY)
        copy.fetch()
        with path.open("a") as file:
            file.write(line)
        copy.put()
        path.unlink()
    assert copied(object_store) == b"one\ntwo\n"


def test_refused_copy_is_tried_again_and_at_the_end_only_said(
    tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_LAST_PAUSES_SECONDS", ())
    path = tmp_path / "journal"
    path.write_text("one\n")
    with Proxy() as proxy:
        root = open_root(proxy.uri(open_root(object_store).path))
        with proxy.doing(Fault("deny", "PUT")):
            with pytest.raises(StorageError):
                Copy(path, root, KEY).put()
            texts: list[str] = []
            with told(texts.append), Copy(path, root, KEY):
                pass
        assert "The last lines of journal weren't copied" in texts[-1]
        with Copy(path, root, KEY):
            pass
    assert copied(object_store) == b"one\n"
