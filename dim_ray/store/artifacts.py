"""Teachers, priors and generators: folders of files with a card that vouches for every byte of them.

    store = ArtifactStore("./dim_storage")
    store.write("generators", fingerprint, {"generator.safetensors": data}, {"dataset": "digits"})
    store.read("generators", fingerprint).card["dataset"]

card.json names each file with its size and SHA-256, and holds a digest of itself. It's written last, so that a folder
with a card is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow.fs as pafs

from dim_ray.errors import ArtifactError, NewerFormatError, nearest
from dim_ray.store.files.faults import PAUSES_SECONDS, storage_errors
from dim_ray.store.files.filesystem import Root, check_name, is_name, open_root, probe
from dim_ray.version import __version__

__all__ = [
    "CARD_DIGEST",
    "CARD_FILE",
    "FORMAT_VERSION",
    "KINDS",
    "Artifact",
    "ArtifactStore",
    "card_digest",
    "probe",
    "read_artifact",
    "seal_card",
]

FORMAT_VERSION = 1
KINDS = ("generators", "priors", "teachers")

CARD_FILE = "card.json"
CARD_DIGEST = "card_sha256"
_REPAIR = "Delete the folder and make it again, or bring back a copy."


@dataclass(frozen=True)
class Artifact:
    """What one folder holds."""

    uri: str
    """Address of the folder."""
    card: dict[str, Any]
    """JSON values: what it is and where it comes from."""
    files: dict[str, bytes]
    """Contents by name, verified against the card."""


class ArtifactStore:
    """Artefacts by kind and fingerprint, and plain files by key, below one root.

    Args:
        root: As for `dim_ray.store.files.filesystem.open_root`.
        pauses_seconds: Between one try and the next, where the storage refuses what it may take later.
    """

    def __init__(self, root: str, pauses_seconds: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self._root = open_root(root, pauses_seconds)

    @property
    def root(self) -> str:
        """Absolute local path, or URI."""
        return self._root.uri

    def uri(self, kind: str, fingerprint: str) -> str:
        """Returns the address of an artefact's folder, whether it exists or not."""
        return self._root.uri_of(_folder(kind, fingerprint))

    def exists(self, kind: str, fingerprint: str) -> bool:
        """Whether there is a finished artefact; its bytes are not verified."""
        return self._root.is_file(f"{_folder(kind, fingerprint)}/{CARD_FILE}")

    def write(self, kind: str, fingerprint: str, files: Mapping[str, bytes], card: Mapping[str, Any]) -> str:
        """Writes an artefact whole or not at all; one that is there and good is kept, one that is damaged replaced.

        Args:
            kind: One of `KINDS`.
            fingerprint: Of the configuration that made it.
            files: Contents by name.
            card: JSON values. format_version, kind, fingerprint, code_version, created_at and files are added.

        Returns:
            The folder's address.

        Raises:
            ArtifactError: The card isn't JSON, a name can't be used, or a newer version of dim_ray wrote it before.
            StorageError: The storage can't be written.
        """
        key = _folder(kind, fingerprint)
        for name in files:
            if check_name("the file of an artefact", name) == CARD_FILE:
                raise ArtifactError(f"{CARD_FILE} is the card's own name; give the file another one.")
        content = _encode_card(kind, fingerprint, files, card)
        if not self._is_whole(kind, fingerprint):
            self._root.publish_folder(key, {**files, CARD_FILE: content}, lambda: self._is_whole(kind, fingerprint))
        return self._root.uri_of(key)

    def copy(self, source: ArtifactStore, kind: str, fingerprint: str) -> str:
        """Copies an artefact of another store as it is, card and all; raises as `read` and `write` do.

        Returns:
            The folder's address.
        """
        key = _folder(kind, fingerprint)
        artifact, card = source.read(kind, fingerprint), source.read_bytes(f"{key}/{CARD_FILE}") or b""
        self._root.publish_folder(key, {**artifact.files, CARD_FILE: card}, lambda: self._is_whole(kind, fingerprint))
        return self._root.uri_of(key)

    def read(self, kind: str, fingerprint: str) -> Artifact:
        """Reads an artefact and verifies all of it.

        Raises:
            ArtifactError: It's missing, truncated, altered, of another kind or of a newer format.
            StorageError: The storage can't be read.
        """
        key = _folder(kind, fingerprint)
        return _read_files(self._root, key, self.read_card(kind, fingerprint))

    def read_card(self, kind: str, fingerprint: str) -> dict[str, Any]:
        """Reads an artefact's card alone, without verifying its files; raises as `read` does."""
        key = _folder(kind, fingerprint)
        if not self.exists(kind, fingerprint):
            there = self.list(kind)
            known = nearest(fingerprint, there) if there else f"There are no {kind} yet: run python -m dim_ray.tune."
            raise ArtifactError(f"there is no {self._root.uri_of(key)}. {known}")
        card = _read_card(self._root, key, kind)
        if card.get("fingerprint") != fingerprint:
            raise ArtifactError(
                f"{self._root.uri_of(key)} holds {card.get('fingerprint')!r}, not the artefact of its name. {_REPAIR}"
            )
        return card

    def list(self, kind: str) -> list[str]:
        """Returns the fingerprints of the finished artefacts of one kind, sorted."""
        folders = [info for info in self._root.children(_check_kind(kind)) if info.type == pafs.FileType.Directory]
        with storage_errors("list", self._root.uri_of(kind)):
            cards = self._root.filesystem.get_file_info([f"{info.path}/{CARD_FILE}" for info in folders])
        return [folder.base_name for folder, card in zip(folders, cards, strict=True) if card.is_file]

    def remove(self, kind: str, fingerprint: str) -> None:
        """Deletes an artefact, where there is one; killed on the way, it leaves one that isn't finished."""
        key = _folder(kind, fingerprint)
        self._root.delete(f"{key}/{CARD_FILE}")
        for info in self._root.children(key):
            self._root.delete(f"{key}/{info.base_name}")
        if self._root.is_local:
            with storage_errors("delete", self._root.uri_of(key)), suppress(FileNotFoundError):
                self._root.filesystem.delete_dir(self._root.path_of(key))

    def write_bytes(self, key: str, data: bytes, *, is_patient: bool = True) -> str:
        """Writes a plain file whole or not at all, in place of one that is there; returns its address.

        Args:
            key: Below the root, for example ``studies/digits/config.yaml``.
            data: Its contents.
            is_patient: Whether it's tried again where the storage refuses.

        Raises:
            StorageError: It can't be written.
        """
        root = self._root if is_patient else replace(self._root, pauses_seconds=())
        return root.write(key, data)

    def read_bytes(self, key: str) -> bytes | None:
        """Returns a plain file's contents, or None where there is none."""
        return self._root.read(key)

    def delete(self, key: str) -> None:
        """Deletes a plain file, where there is one."""
        self._root.delete(key)

    def _is_whole(self, kind: str, fingerprint: str) -> bool:
        if not self.exists(kind, fingerprint):
            return False
        try:
            self.read(kind, fingerprint)
        except NewerFormatError:  # not damaged, so never to be replaced
            raise
        except ArtifactError:
            return False
        return True


def read_artifact(uri: str, kind: str | None = None) -> Artifact:
    """Reads and verifies an artefact wherever it lies.

    Args:
        uri: Its folder or a file in it: local path, or file://, s3:// or gs:// URI.
        kind: The kind that is needed. Default: any.

    Raises:
        ArtifactError: It's missing, truncated, altered, of another kind or of a newer format.
        StorageError: The storage can't be read.
    """
    if kind is not None:
        _check_kind(kind)
    folder = open_root(uri)
    with storage_errors("read", folder.uri):
        found = folder.filesystem.get_file_info(folder.path)
    if found.is_file:
        base, mark, query = (folder.uri, "", "") if folder.is_local else folder.uri.partition("?")
        folder = open_root(base.rsplit("/", 1)[0] + mark + query)
    elif found.type == pafs.FileType.NotFound:
        raise ArtifactError(
            f"there is no {folder.uri}; give the folder of an artefact, as `python -m dim_ray.results best` shows it."
        )
    return _read_files(folder, "", _read_card(folder, "", kind))


def card_digest(card: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a card's values, however they are written; the card without its digest."""
    return hashlib.sha256(json.dumps(card, sort_keys=True, allow_nan=False).encode()).hexdigest()


def seal_card(card: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Returns the bytes of card.json, which vouches for files and for itself.

    Args:
        card: JSON values; those of `files` are made anew.
        files: Contents by name.

    Raises:
        ArtifactError: The card isn't JSON.
    """
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for name, data in files.items()}
    complete = {**card, "files": sums}
    try:
        complete[CARD_DIGEST] = card_digest(complete)
        return json.dumps(complete, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        name = f"{card.get('kind')}/{card.get('fingerprint')}"
        raise ArtifactError(f"the card of {name} can't be written as JSON: {error}.") from error


def _folder(kind: str, fingerprint: str) -> str:
    return f"{_check_kind(kind)}/{check_name('the fingerprint', fingerprint)}"


def _check_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ArtifactError(f"{kind!r} is an unknown kind of artefact; {nearest(kind, KINDS)}")
    return kind


def _encode_card(kind: str, fingerprint: str, files: Mapping[str, bytes], card: Mapping[str, Any]) -> bytes:
    complete = {
        **card,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "fingerprint": fingerprint,
        "code_version": __version__,
        "created_at": datetime.now(UTC).isoformat(),
    }
    return seal_card(complete, files)


def _read_card(root: Root, key: str, kind: str | None) -> dict[str, Any]:
    """Reads the card of the folder `key`, "" for the root itself, and checks what it says of itself."""
    where = root.uri_of(key) if key else root.uri
    data = root.read(_join(key, CARD_FILE))
    if data is None:
        raise ArtifactError(
            f"{where} has no {CARD_FILE}, so it's no finished artefact; give the folder of one, such as "
            f"{where}/generators/<fingerprint> if this is a storage."
        )
    try:
        card = json.loads(data)
    except ValueError as error:
        raise ArtifactError(f"{CARD_FILE} of {where} isn't JSON: {error}. {_REPAIR}") from error
    version = card.get("format_version") if isinstance(card, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(f"{CARD_FILE} of {where} has no format_version, so it wasn't written by dim_ray. {_REPAIR}")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{where} was made by a newer version of dim_ray (format {version}, this one reads up to "
            f"{FORMAT_VERSION}): upgrade dim_ray."
        )
    if card.pop(CARD_DIGEST, None) != card_digest(card):
        raise ArtifactError(f"{CARD_FILE} of {where} was altered: it doesn't fit its own {CARD_DIGEST}. {_REPAIR}")
    if kind is not None and card.get("kind") != kind:
        raise ArtifactError(f"{where} is of the kind {card.get('kind')!r}; needed here: {kind!r}.")
    return dict(card)


def _read_files(root: Root, key: str, card: dict[str, Any]) -> Artifact:
    where = root.uri_of(key) if key else root.uri
    named = card.get("files")
    if not isinstance(named, dict):
        raise ArtifactError(f"{CARD_FILE} of {where} doesn't list its files. {_REPAIR}")
    files = {}
    for name, stated in named.items():
        if not is_name(name):  # a card may come from anywhere: it must not reach outside of its folder
            raise ArtifactError(f"{CARD_FILE} of {where} names the file {name!r}, which isn't a plain name. {_REPAIR}")
        size = stated.get("size_bytes") if isinstance(stated, dict) else None
        if not isinstance(size, int) or "sha256" not in stated:
            raise ArtifactError(f"{CARD_FILE} of {where} doesn't give sha256 and size_bytes of {name}. {_REPAIR}")
        data = root.read(_join(key, name))
        if data is None:
            raise ArtifactError(f"{name} is missing in {where}. {_REPAIR}")
        if len(data) != size:
            fault = "is truncated" if len(data) < size else "is too long"
            raise ArtifactError(f"{name} in {where} {fault}: {len(data)} bytes, {size} expected. {_REPAIR}")
        if hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise ArtifactError(f"{name} in {where} was altered: its SHA-256 isn't the one in {CARD_FILE}. {_REPAIR}")
        files[name] = data
    return Artifact(uri=where, card=card, files=files)


def _join(key: str, name: str) -> str:
    return f"{key}/{name}" if key else name
