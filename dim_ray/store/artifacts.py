"""Store teachers, priors and generators: folders of files, each with a card that has every file's checksum.

    store = ArtifactStore("./dim_storage")
    store.write("generators", fingerprint, {"generator.safetensors": data}, {"dataset": "digits"})
    store.read("generators", fingerprint).card["dataset"]

card.json names each file with its size and SHA-256 and holds a digest of itself. It's written last, so a folder with a
card is complete.
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

from dim_ray import hub
from dim_ray.config.names import is_name
from dim_ray.errors import ArtifactError, NewerFormatError, nearest
from dim_ray.store.files.faults import PAUSES_SECONDS, storage_errors
from dim_ray.store.files.filesystem import Root, check_name, open_root
from dim_ray.version import __version__

__all__ = [
    "CARD_DIGEST",
    "CARD_FILE",
    "DATASETS",
    "FORMAT_VERSION",
    "KINDS",
    "Artifact",
    "ArtifactStore",
    "card_digest",
    "read_artifact",
    "seal_card",
]

FORMAT_VERSION = 1
KINDS = ("generators", "priors", "teachers")
"""Kinds of networks, whose folders are named by fingerprints."""
DATASETS = "datasets"
"""Kind of the cards that say to which data a name belongs; their folders are named by it, in lower case."""

CARD_FILE = "card.json"
CARD_DIGEST = "card_sha256"
_PROSE = "README.md"  # earlier exports have its checksum in their cards, but anyone may edit it
_LFS_POINTER = b"version https://git-lfs"
_REPAIR = "Delete the folder and make it again, or bring back a copy."
_FETCH_AGAIN = "Remove this copy with `hf cache rm` and load it again; if nothing changes, tell its owner."


@dataclass(frozen=True)
class Artifact:
    """A verified artefact."""

    uri: str
    """Address of the folder."""
    card: dict[str, Any]
    """JSON values: what it is and how it was made."""
    files: dict[str, bytes]
    """Contents by name."""


class ArtifactStore:
    """Artefacts by kind and fingerprint, and plain files by key, below a root; arguments as for `open_root`."""

    def __init__(self, root: str, pauses_seconds: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self._root = open_root(root, pauses_seconds)

    @property
    def root(self) -> str:
        """Absolute local path, or URI."""
        return self._root.uri

    def uri(self, kind: str, fingerprint: str) -> str:
        """Return the address of an artefact's folder, whether it exists or not."""
        return self._root.uri_of(_folder(kind, fingerprint))

    def exists(self, kind: str, fingerprint: str) -> bool:
        """Return whether a complete artefact exists, without verifying its files."""
        return self._root.is_file(f"{_folder(kind, fingerprint)}/{CARD_FILE}")

    def write(self, kind: str, fingerprint: str, files: Mapping[str, bytes], card: Mapping[str, Any]) -> str:
        """Write an artefact whole or not at all, and return its address.

        An artefact that is there already is kept if it's undamaged, and replaced otherwise. The card gets
        format_version, kind, fingerprint, code_version, created_at and files.

        Raises:
            ArtifactError: A newer version of dim_ray wrote the artefact.
            StorageError: The storage can't be written.
        """
        key = _folder(kind, fingerprint)
        complete = {
            **card,
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "fingerprint": fingerprint,
            "code_version": __version__,
            "created_at": datetime.now(UTC).isoformat(),
        }
        content = seal_card(complete, files)
        if not self._is_whole(kind, fingerprint):
            self._root.publish_folder(key, {**files, CARD_FILE: content}, lambda: self._is_whole(kind, fingerprint))
        return self._root.uri_of(key)

    def copy(self, other: ArtifactStore, kind: str, fingerprint: str) -> str:
        """Copy an artefact of another store unchanged, and return its address; raises as `read` and `write`."""
        key = _folder(kind, fingerprint)
        artifact, card = other.read(kind, fingerprint), other.read_bytes(f"{key}/{CARD_FILE}") or b""
        self._root.publish_folder(key, {**artifact.files, CARD_FILE: card}, lambda: self._is_whole(kind, fingerprint))
        return self._root.uri_of(key)

    def read(self, kind: str, fingerprint: str) -> Artifact:
        """Read an artefact and verify all of it.

        Raises:
            ArtifactError: The artefact is missing, truncated, altered, of another kind or of a newer format.
            StorageError: The storage can't be read.
        """
        return _read_files(self._root.below(_folder(kind, fingerprint)), self.read_card(kind, fingerprint))

    def read_card(self, kind: str, fingerprint: str) -> dict[str, Any]:
        """Read only an artefact's card, without verifying its files; raises as `read`."""
        folder = self._root.below(_folder(kind, fingerprint))
        if (data := folder.read(CARD_FILE)) is None:
            there = self.list(kind)
            known = nearest(fingerprint, there) if there else f"There are no {kind} yet: run python -m dim_ray.tune."
            raise ArtifactError(f"there is no {folder.uri}. {known}")
        card = _parse_card(folder.uri, data, kind)
        if (own := card.get("fingerprint")) != fingerprint:
            raise ArtifactError(f"{folder.uri} holds {own!r}, not the artefact of its name. {_REPAIR}")
        return card

    def list(self, kind: str) -> list[str]:
        """Return the fingerprints of the complete artefacts of a kind, sorted."""
        folders = [info for info in self._root.children(kind) if info.type == pafs.FileType.Directory]
        with storage_errors("list", self._root.uri_of(kind)):
            cards = self._root.filesystem.get_file_info([f"{info.path}/{CARD_FILE}" for info in folders])
        return [folder.base_name for folder, card in zip(folders, cards, strict=True) if card.is_file]

    def remove(self, kind: str, fingerprint: str) -> None:
        """Delete an artefact if it exists, its card first, so that an interrupted deletion leaves an incomplete one."""
        key = _folder(kind, fingerprint)
        self._root.delete(f"{key}/{CARD_FILE}")
        for info in self._root.children(key):
            self._root.delete(f"{key}/{info.base_name}")
        if self._root.is_local:
            with storage_errors("delete", self._root.uri_of(key)), suppress(FileNotFoundError):
                self._root.filesystem.delete_dir(self._root.path_of(key))

    def write_bytes(self, key: str, data: bytes, *, is_patient: bool = True) -> str:
        """Write a plain file, such as ``studies/digits/config.yaml``, whole or not at all; return its address."""
        root = self._root if is_patient else replace(self._root, pauses_seconds=())
        return root.write(key, data)

    def read_bytes(self, key: str) -> bytes | None:
        """Return a plain file's contents, or None if there is none."""
        return self._root.read(key)

    def delete(self, key: str) -> None:
        """Delete a plain file if it exists."""
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
    """Read and verify an artefact anywhere, given its folder or a file in it; any kind will do unless one is named.

    Raises:
        ArtifactError: The artefact is missing, truncated, altered, of another kind or of a newer format.
        StorageError: The storage can't be read.
        UsageError: An hf:// address can't be used.
    """
    if uri.startswith(hub.SCHEME):
        local = hub.download(uri, "model")
        try:
            return read_artifact(str(local), kind)
        except ArtifactError as error:
            raise type(error)(f"{uri}: {str(error).replace(_REPAIR, _FETCH_AGAIN)}") from error
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
    return _read_files(folder, _read_card(folder, kind))


def card_digest(card: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a card's values, its digest left out."""
    return hashlib.sha256(json.dumps(card, sort_keys=True, allow_nan=False).encode()).hexdigest()


def seal_card(card: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Return the bytes of card.json: a card with the checksums of its files and of itself."""
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for name, data in files.items()}
    complete = {**card, "files": sums}
    complete[CARD_DIGEST] = card_digest(complete)
    return json.dumps(complete, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _folder(kind: str, fingerprint: str) -> str:
    return f"{kind}/{check_name('the fingerprint', fingerprint)}"


def _read_card(folder: Root, kind: str | None) -> dict[str, Any]:
    """Return the card of an artefact's folder, checked against its own digest."""
    where, data = folder.uri, folder.read(CARD_FILE)
    if data is None:
        raise ArtifactError(
            f"{where} has no {CARD_FILE}, so it's no finished artefact; give the folder of one, such as "
            f"{where}/generators/<fingerprint> if this is a storage."
        )
    return _parse_card(where, data, kind)


def _parse_card(where: str, data: bytes, kind: str | None) -> dict[str, Any]:
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


def _read_files(folder: Root, card: dict[str, Any]) -> Artifact:
    """Return an artefact, its files checked against the card."""
    where, named = folder.uri, card.get("files")
    if not isinstance(named, dict):
        raise ArtifactError(f"{CARD_FILE} of {where} doesn't list its files. {_REPAIR}")
    files = {}
    for name, stated in named.items():
        if name == _PROSE:
            continue
        if not is_name(name):  # a foreign card must not reach outside its folder
            raise ArtifactError(f"{CARD_FILE} of {where} names the file {name!r}, which isn't a plain name. {_REPAIR}")
        size = stated.get("size_bytes") if isinstance(stated, dict) else None
        if not isinstance(size, int) or "sha256" not in stated:
            raise ArtifactError(f"{CARD_FILE} of {where} doesn't give sha256 and size_bytes of {name}. {_REPAIR}")
        data = folder.read(name)
        if data is None:
            raise ArtifactError(f"{name} is missing in {where}. {_REPAIR}")
        if data.startswith(_LFS_POINTER):
            raise ArtifactError(f"{name} in {where} is only a pointer of Git LFS: run git lfs pull there.")
        if name.endswith(".py"):
            data = data.replace(b"\r\n", b"\n")  # as a checkout on Windows has it
        if len(data) != size:
            fault = "is truncated" if len(data) < size else "is too long"
            raise ArtifactError(f"{name} in {where} {fault}: {len(data)} bytes, {size} expected. {_REPAIR}")
        if hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise ArtifactError(f"{name} in {where} was altered: its SHA-256 isn't the one in {CARD_FILE}. {_REPAIR}")
        files[name] = data
    return Artifact(uri=where, card=card, files=files)
