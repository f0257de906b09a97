from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from dim_ray.errors import ArtifactError, StorageError
from dim_ray.store.artifacts import CARD_DIGEST, ArtifactStore, read_artifact
from dim_ray.store.files.filesystem import Root, open_root
from tests.helpers.altered_cards import edit_card

FINGERPRINT = "0123456789abcdef"
FILES = {"generator.safetensors": b"weights" * 1000, "samples.png": b"\x89PNG"}
CARD = {"dataset": "digits", "class_names": ["0", "1"], "mean": [0.5]}

WRITER_IN_MID_FOLDER = """
import os, sys, time
from dim_ray.store.artifacts import ArtifactStore
real, calls = os.fsync, []

def fsync(descriptor):
    calls.append(real(descriptor))
    if len(calls) == 2:  # one file is done, the next is on its way, the card isn't there
        print("in the middle", flush=True)
        time.sleep(60)

os.fsync = fsync
ArtifactStore(sys.argv[1]).write("priors", sys.argv[2], {"a": b"1", "b": b"2"}, {})
"""


@pytest.fixture
def store(root: str) -> ArtifactStore:
    return ArtifactStore(root)


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    made = ArtifactStore(str(tmp_path))
    made.write("generators", FINGERPRINT, FILES, CARD)
    return made


def test_written_artifact_comes_back_with_its_files_and_a_completed_card(store: ArtifactStore) -> None:
    uri = store.write("generators", FINGERPRINT, FILES, CARD)
    artifact = store.read("generators", FINGERPRINT)
    assert artifact.uri == uri == store.uri("generators", FINGERPRINT)
    assert artifact.files == FILES
    assert {name: artifact.card[name] for name in CARD} == CARD
    assert artifact.card["format_version"] == 1
    assert (artifact.card["kind"], artifact.card["fingerprint"]) == ("generators", FINGERPRINT)
    assert artifact.card["files"]["samples.png"]["size_bytes"] == 4
    assert datetime.fromisoformat(artifact.card["created_at"]).tzinfo is not None
    assert store.read_card("generators", FINGERPRINT) == artifact.card


def test_artifact_exists_once_written_and_is_listed_under_its_kind(store: ArtifactStore) -> None:
    assert not store.exists("teachers", FINGERPRINT)
    assert store.list("teachers") == []
    for fingerprint in ("bb", "aa"):
        store.write("teachers", fingerprint, FILES, CARD)
    assert store.exists("teachers", "aa")
    assert store.list("teachers") == ["aa", "bb"]
    assert store.list("generators") == []


def test_folder_without_a_card_is_no_artifact(store: ArtifactStore) -> None:
    store.write_bytes(f"priors/{FINGERPRINT}/generator.safetensors", b"half")
    assert not store.exists("priors", FINGERPRINT)
    assert store.list("priors") == []
    store.write("priors", FINGERPRINT, FILES, CARD)
    assert store.read("priors", FINGERPRINT).files == FILES


def test_artifact_that_is_there_and_good_is_kept_when_it_is_written_again(store: ArtifactStore) -> None:
    store.write("priors", FINGERPRINT, FILES, CARD)
    store.write("priors", FINGERPRINT, {"other": b"x"}, {"dataset": "mnist"})
    assert store.read("priors", FINGERPRINT).card["dataset"] == "digits"
    assert store.read("priors", FINGERPRINT).files == FILES


def test_damaged_artifact_is_replaced_when_it_is_written_again(store: ArtifactStore) -> None:
    store.write("priors", FINGERPRINT, FILES, CARD)
    store.write_bytes(f"priors/{FINGERPRINT}/samples.png", b"")
    store.write("priors", FINGERPRINT, FILES, CARD)
    assert store.read("priors", FINGERPRINT).files == FILES
    assert store.list("priors") == [FINGERPRINT]


def test_artifact_of_a_newer_version_is_not_replaced(local: ArtifactStore, tmp_path: Path) -> None:
    edit_card(tmp_path / "generators" / FINGERPRINT, lambda card: card.update(format_version=2))
    with pytest.raises(ArtifactError, match="upgrade dim_ray"):
        local.write("generators", FINGERPRINT, FILES, CARD)


def test_of_many_writers_at_once_one_wins_and_nothing_else_is_left(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: store.write("priors", "aa", {"f": bytes([i]) * 9}, {"writer": i}), range(8)))
    artifact = store.read("priors", "aa")
    assert artifact.files["f"] == bytes([artifact.card["writer"]]) * 9
    assert [path.name for path in (tmp_path / "priors").iterdir()] == ["aa"]


def test_writer_that_loses_the_race_keeps_the_other_and_drops_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(str(tmp_path))
    publish = Root.publish_folder

    def overtaken(self: Root, key: str, files: dict[str, bytes], is_whole: Callable[[], bool]) -> None:
        monkeypatch.undo()
        store.write("priors", "aa", {"f": b"theirs"}, {})
        publish(self, key, files, is_whole)

    monkeypatch.setattr(Root, "publish_folder", overtaken)
    store.write("priors", "aa", {"f": b"ours"}, {})
    assert store.read("priors", "aa").files == {"f": b"theirs"}
    assert [path.name for path in (tmp_path / "priors").iterdir()] == ["aa"]


def test_writer_killed_in_mid_folder_leaves_no_artifact_and_its_retry_writes_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER_IN_MID_FOLDER, str(tmp_path), FINGERPRINT], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(list((tmp_path / "priors").iterdir())) == 1, "the process was to die with its folder unfinished"
    store = ArtifactStore(str(tmp_path))
    assert not store.exists("priors", FINGERPRINT)
    assert store.list("priors") == []
    store.write("priors", FINGERPRINT, {"a": b"1", "b": b"2"}, {})
    assert store.list("priors") == [FINGERPRINT]


def test_object_store_gets_the_card_last(object_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = Root.write

    def noted(self: Root, key: str, data: bytes) -> str:
        written.append(key.rsplit("/", 1)[1])
        return write(self, key, data)

    monkeypatch.setattr(Root, "write", noted)
    ArtifactStore(object_store).write("priors", FINGERPRINT, FILES, CARD)
    assert written == [*FILES, "card.json"]


def test_damaged_artifact_on_an_object_store_counts_as_absent_while_it_is_replaced(
    object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(object_store)
    store.write("priors", FINGERPRINT, FILES, CARD)
    store.write_bytes(f"priors/{FINGERPRINT}/samples.png", b"")
    seen = []
    write = Root.write

    def watched(self: Root, key: str, data: bytes) -> str:
        seen.append(store.exists("priors", FINGERPRINT))
        return write(self, key, data)

    monkeypatch.setattr(Root, "write", watched)
    store.write("priors", FINGERPRINT, FILES, CARD)
    assert seen == [False] * 3
    assert store.exists("priors", FINGERPRINT)


def _truncated(folder: Path) -> None:
    os.truncate(folder / "generator.safetensors", 100)


def _grown(folder: Path) -> None:
    with open(folder / "samples.png", "ab") as file:
        file.write(b"more")


def _altered(folder: Path) -> None:
    data = bytearray((folder / "generator.safetensors").read_bytes())
    data[3000] ^= 1
    (folder / "generator.safetensors").write_bytes(data)


def _missing(folder: Path) -> None:
    (folder / "samples.png").unlink()


def _not_json(folder: Path) -> None:
    (folder / "card.json").write_text('{"format_version": 1,')


def _binary_card(folder: Path) -> None:
    (folder / "card.json").write_bytes(b"\xff\xfe\x00")


def _list_for_a_card(folder: Path) -> None:
    (folder / "card.json").write_text("[1]")


def _old(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(format_version=0))


def _edited_card(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(dataset="mnist"), is_sealed=False)


def _card_without_digest(folder: Path) -> None:
    edit_card(folder, lambda card: card.pop(CARD_DIGEST), is_sealed=False)


def _newer(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(format_version=2))


def _other_kind(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(kind="teachers"))


def _files_missing_from_card(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(files=None))


def _outside_file(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"")
    edit_card(folder, lambda card: card.update(files={"../secret": {"size_bytes": 0, "sha256": ""}}))


def _no_size(folder: Path) -> None:
    edit_card(folder, lambda card: card.update(files={"samples.png": {"size_bytes": "4"}}))


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (_truncated, "generator.safetensors in .* is truncated: 100 bytes, 7000 expected"),
    (_grown, "samples.png in .* is too long: 8 bytes, 4 expected"),
    (_altered, "generator.safetensors in .* was altered"),
    (_missing, "samples.png is missing in"),
    (_not_json, "card.json of .* isn't JSON"),
    (_binary_card, "card.json of .* isn't JSON"),
    (_list_for_a_card, "card.json of .* has no format_version"),
    (_old, "card.json of .* has no format_version"),
    (_edited_card, "card.json of .* was altered: it doesn't fit its own card_sha256"),
    (_card_without_digest, "card.json of .* was altered"),
    (_newer, r"newer version of dim_ray \(format 2, this one reads up to 1\): upgrade dim_ray"),
    (_other_kind, "is of the kind 'teachers'; needed here: 'generators'"),
    (_files_missing_from_card, "doesn't list its files"),
    (_outside_file, "names the file '../secret'"),
    (_no_size, "doesn't give sha256 and size_bytes of samples.png"),
]


@pytest.mark.parametrize(("damage", "message"), FAULTS)
def test_damaged_artifact_is_refused_by_name(
    local: ArtifactStore, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "generators" / FINGERPRINT
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        local.read("generators", FINGERPRINT)
    assert str(folder) in str(caught.value)
    with pytest.raises(ArtifactError, match=message):
        read_artifact(str(folder), "generators")


def test_missing_artifact_is_refused_with_those_that_are_there(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match=r"There are no generators yet: run python -m dim_ray.tune"):
        store.read("generators", FINGERPRINT)
    store.write("generators", FINGERPRINT, FILES, CARD)
    with pytest.raises(ArtifactError, match=f"did you mean '{FINGERPRINT}'"):
        store.read_card("generators", FINGERPRINT[:-1])


def test_folder_under_the_name_of_another_artifact_is_refused(local: ArtifactStore, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "generators" / FINGERPRINT, tmp_path / "generators" / "ffff")
    with pytest.raises(ArtifactError, match=f"holds '{FINGERPRINT}', not the artefact of its name"):
        local.read("generators", "ffff")


@pytest.mark.parametrize("fingerprint", ["", "../teachers", ".hidden", "a/b"])
def test_fingerprint_that_leaves_its_folder_is_refused(store: ArtifactStore, fingerprint: str) -> None:
    with pytest.raises(StorageError, match="the fingerprint is"):
        store.write("generators", fingerprint, FILES, CARD)


def test_artifact_is_read_by_its_folder_or_by_a_file_in_it(store: ArtifactStore, root: str) -> None:
    uri = store.write("generators", FINGERPRINT, FILES, CARD)
    base, mark, query = uri.partition("?")
    for address in (uri, f"{base}/{mark}{query}", f"{base}/generator.safetensors{mark}{query}"):
        assert read_artifact(address, "generators").files == FILES
    with pytest.raises(ArtifactError, match="needed here: 'teachers'"):
        read_artifact(uri, "teachers")


def test_copied_and_renamed_folder_is_read_by_relative_path_and_file_uri(
    local: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "generators" / FINGERPRINT, tmp_path / "my best é")
    monkeypatch.chdir(tmp_path)
    assert read_artifact("my best é").files == FILES
    assert read_artifact((tmp_path / "my best é").as_uri()).files == FILES


def test_address_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no .*nowhere; give the folder of an artefact"):
        read_artifact(str(tmp_path / "nowhere"))
    with pytest.raises(ArtifactError, match=r"has no card\.json"):
        read_artifact(str(tmp_path))


def test_plain_files_are_replaced_read_and_deleted(store: ArtifactStore) -> None:
    key = "studies/digits/state/checkpoint.json"
    assert store.read_bytes(key) is None
    store.write_bytes(key, b"1")
    uri = store.write_bytes(key, b"22")
    assert uri.startswith(store.root.partition("?")[0])
    assert store.read_bytes(key) == b"22"
    store.delete(key)
    store.delete(key)
    assert store.read_bytes(key) is None


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a//b", "a/../../b"])
def test_key_that_leaves_the_root_is_refused(store: ArtifactStore, key: str) -> None:
    with pytest.raises(StorageError, match="the storage key is"):
        store.write_bytes(key, b"")


def test_new_process_sees_the_same_root_for_every_way_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    there = str(tmp_path / "a b")
    assert {open_root(root).uri for root in (there, "a b", "./a b/", "~/a b", (tmp_path / "a b").as_uri())} == {there}
