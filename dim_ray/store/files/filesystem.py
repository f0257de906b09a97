"""Read and write files below a root: a local folder, or an s3:// or gs:// URI. A file appears whole or not at all.

    root = open_root("~/dim_storage")
    root.write("studies/digits/config.yaml", b"...")

On a disk a file is written under a hidden name, flushed and renamed. pyarrow and pandas ignore names that begin with
'.', so nobody reads what a killed writer leaves. On an object store a file is one put, which is atomic.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from dim_ray.config.names import is_name
from dim_ray.errors import StorageAddressError, StorageError, nearest
from dim_ray.store.files.faults import is_gone, patiently, storage_errors
from dim_ray.store.files.object_stores import REMOTE_SCHEMES, connect

__all__ = ["Root", "check_name", "open_root", "probe"]

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_URI_WITHOUT_SLASHES = re.compile(r"(file|gs|s3):")
_PUBLISH_ATTEMPTS = 5
_PROBE_BYTES = b"dim_ray: may this root be written?"

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Root:
    """A folder whose files have keys such as ``studies/digits/config.yaml``."""

    uri: str
    """Absolute local path, or URI."""
    filesystem: pafs.FileSystem
    """File system of pyarrow."""
    path: str
    """Path in `filesystem`, without a slash at its end."""
    is_local: bool
    """Whether it's a disk, which can rename, rather than an object store."""
    pauses_seconds: tuple[float, ...] = ()
    """Pauses between attempts while a refusal may pass; none if a person waits for the answer."""

    def below(self, key: str) -> Root:
        """Return a folder below this one as a root of its own."""
        return replace(self, uri=self.uri_of(key), path=self.path_of(key))

    def path_of(self, key: str) -> str:
        """Return the path of a key in `filesystem`."""
        parts = key.split("/")
        if not all(parts) or ".." in parts or "." in parts:
            raise StorageError(f"the storage key is {key!r}; allowed: names joined by '/', none of them empty or '..'.")
        return "/".join([self.path.rstrip("/"), *parts])

    def key_of(self, path: str) -> str:
        """Return the key of a path in `filesystem`."""
        return path[len(self.path.rstrip("/")) + 1 :]

    def uri_of(self, key: str) -> str:
        """Return the address of a key: an absolute local path, or a URI with the root's query."""
        self.path_of(key)
        if self.is_local:
            return f"{self.uri.rstrip('/')}/{key}"
        base, mark, query = self.uri.partition("?")
        return f"{base.rstrip('/')}/{quote(key, safe='/=')}{mark}{query}"

    def read(self, key: str) -> bytes | None:
        """Return a file's bytes, or None if there is no such file."""
        path = self.path_of(key)

        def read() -> bytes | None:
            try:
                with self.filesystem.open_input_stream(path) as stream:
                    data: bytes = stream.read()
            except (OSError, pa.ArrowException) as error:
                if is_gone(error):
                    return None
                raise
            return data

        return self.attempt("read", key, read)

    def is_file(self, key: str) -> bool:
        """Return whether there is such a file."""
        path = self.path_of(key)
        info = self.attempt("read", key, lambda: self.filesystem.get_file_info(path))
        return bool(info.type == pafs.FileType.File)

    def children(self, key: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        """Return the entries of a folder by path, without hidden ones; none if there is no folder."""
        base = self.path_of(key)
        folder = pafs.FileSelector(base, allow_not_found=True, recursive=recursive)
        found = self.attempt("list", key, lambda: self.filesystem.get_file_info(folder))
        visible = [info for info in found if not _is_hidden(info.path[len(base) :])]
        return sorted(visible, key=lambda info: str(info.path))

    def write(self, key: str, data: bytes) -> str:
        """Write a file whole or not at all, replacing an existing one, and return its address."""
        target = self.path_of(key)

        def put() -> None:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)

        self.attempt("write", key, (lambda: _replace_file(target, data)) if self.is_local else put)
        return self.uri_of(key)

    def delete(self, key: str) -> None:
        """Delete a file if it exists, and what killed writers of it left. Nobody may be writing it."""
        target = self.path_of(key)

        def delete() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(target)
            if self.is_local:
                for unfinished in _unfinished(target):
                    with suppress(FileNotFoundError):
                        os.unlink(unfinished)

        self.attempt("delete", key, delete)

    def publish_folder(self, key: str, files: Mapping[str, bytes], is_whole: Callable[[], bool]) -> None:
        """Make a folder appear with all files at once (disk), or with the last file last, which commits (object store).

        A folder that another writer has put there stays if it `is_whole`.
        """
        if self.is_local:
            target = self.path_of(key)
            self.attempt("write", key, lambda: _publish(target, files, is_whole))
            return
        *_, commit = files
        self.delete(f"{key}/{commit}")  # while its files are replaced, a damaged folder counts as absent
        for name, data in files.items():
            self.write(f"{key}/{name}", data)

    def attempt(self, action: str, key: str, call: Callable[[], _Result]) -> _Result:
        """Read or write a key, trying again as long as this root allows."""
        address = self.uri_of(key)
        with storage_errors(action, address):
            return patiently(call, self.pauses_seconds, f"{action} {address}")


def open_root(root: str, pauses_seconds: tuple[float, ...] = ()) -> Root:
    """Resolve a local path, or a file://, s3:// or gs:// URI; contact nobody except for an S3 bucket's region.

    Options of an object store are in the query; see `dim_ray.store.files.object_stores.connect`.

    Raises:
        StorageAddressError: The root is empty, or a URI that can't be used.
    """
    if not root.strip():
        raise StorageAddressError(f"the storage root is {root!r}; allowed: a folder, or a file://, s3:// or gs:// URI.")
    match = _URI.match(root)
    if match is None:
        if _URI_WITHOUT_SLASHES.match(root):
            raise StorageAddressError(
                f"the storage root is {root!r}; a URI has '//' behind its scheme, as in s3://bucket/folder."
            )
        return _local(os.path.expanduser(root), pauses_seconds)
    scheme = match["scheme"]
    if "@" in root[match.end() :].partition("/")[0]:
        raise StorageAddressError(  # without the URI itself, which would reach the log
            f"the {scheme}:// storage root carries credentials, which would be printed and stored with every run; "
            "leave them out and give them as the provider's own tools take them, for example in ~/.aws/credentials."
        )
    if scheme == "file":
        parts = urlsplit(root)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise StorageAddressError(f"the storage root is {root!r}; a file URI has the form file:///folder.")
        return _local(unquote(parts.path), pauses_seconds)
    if scheme not in REMOTE_SCHEMES:
        raise StorageAddressError(
            f"the storage root {root!r} has the unknown scheme {scheme!r}; {nearest(scheme, ['file', *REMOTE_SCHEMES])}"
        )
    if not root[match.end() :].partition("?")[0].strip("/"):
        raise StorageAddressError(
            f"the storage root is {root!r}, which names no bucket; write {scheme}://bucket/folder."
        )
    with storage_errors("reach", root):
        filesystem, path = connect(root)
    return Root(uri=root, filesystem=filesystem, path=path.rstrip("/"), is_local=False, pauses_seconds=pauses_seconds)


def probe(root: str) -> None:
    """Check that a root can be used, by writing a small file and reading it back; raise a StorageError if it can't."""
    opened = open_root(root)
    if opened.is_local and os.path.isfile(opened.path):
        raise StorageAddressError(f"the storage root {opened.uri} is a file; give a folder with --storage.")
    key = f".probe-{uuid.uuid4().hex}"
    opened.write(key, _PROBE_BYTES)
    try:
        received = opened.read(key)
    finally:
        opened.delete(key)
    if received != _PROBE_BYTES:
        raise StorageError(
            f"the storage root {opened.uri} doesn't give back what was written; choose another with --storage."
        )


def check_name(what: str, name: object) -> str:
    """Return a name if it may stand in a path, and raise a StorageError otherwise."""
    if not isinstance(name, str) or not is_name(name):
        raise StorageError(f"{what} is {name!r}; allowed: letters, digits, '.', '_' and '-', the first not a sign.")
    return name


def _local(path: str, pauses_seconds: tuple[float, ...]) -> Root:
    absolute = os.path.abspath(path)
    if absolute != absolute.encode(errors="replace").decode():
        raise StorageAddressError(
            f"{absolute} has bytes that aren't text in this locale; rename its folder or, if its name is UTF-8, set "
            "PYTHONUTF8=1."
        )
    filesystem = pafs.LocalFileSystem()
    return Root(uri=absolute, filesystem=filesystem, path=absolute, is_local=True, pauses_seconds=pauses_seconds)


def _hidden(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex}.tmp"


def _unfinished(target: str) -> list[str]:
    """Return the hidden files of all writers of a file."""
    folder, name = map(glob.escape, os.path.split(target))
    return glob.glob(os.path.join(folder, f".{name}.{'[0-9a-f]' * 32}.tmp"))


def _is_hidden(relative_path: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative_path.split("/"))


def _replace_file(target: str, data: bytes) -> None:
    folder, name = os.path.split(target)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, _hidden(name))
    try:
        _write_through(temporary, data)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    _flush_folder(folder)


def _publish(target: str, files: Mapping[str, bytes], is_whole: Callable[[], bool]) -> None:
    """Write a folder under a hidden name and rename it into place."""
    parent, name = os.path.split(target)
    ours = os.path.join(parent, _hidden(name))
    os.makedirs(ours)
    try:
        for file, data in files.items():
            _write_through(os.path.join(ours, file), data)
        _flush_folder(ours)
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                os.rename(ours, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                _flush_folder(parent)
                return
            if is_whole():
                return
            damaged = os.path.join(parent, _hidden(name))
            with suppress(FileNotFoundError):  # another writer may repair it too
                os.rename(target, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        raise FileExistsError(errno.EEXIST, "a damaged folder is there and comes back when it's moved away", target)
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _write_through(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: str) -> None:
    """Make a rename survive a power cut, if the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
