"""How object stores are reached: which options an address may have, and how long a request may take.

    filesystem, path = connect("s3://bucket/folder?endpoint_override=minio:9000&scheme=http")

A request is tried four times, with pauses of some seconds in all. A store that refuses every one of them is an error
within half a minute, and one that takes connections and never answers within a minute; whoever is patient begins anew
after that (`dim_ray.store.files.faults`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from dim_ray.errors import StorageAddressError, nearest

__all__ = ["REMOTE_SCHEMES", "connect"]

REMOTE_SCHEMES = ("gs", "s3")

_S3_OPTIONS = ("endpoint_override", "force_virtual_addressing", "region", "scheme", "tls_ca_file_path")
_GS_OPTIONS = ("endpoint_override", "scheme")
_SCHEMES = ("http", "https")
_YES_OR_NO = {"true": True, "false": False}
_ATTEMPTS = 4
_CONNECT_SECONDS = 5.0
_GS_RETRIES = timedelta(seconds=20)


def connect(uri: str) -> tuple[pafs.FileSystem, str]:
    """Opens the file system of an s3:// or gs:// URI; asks nothing, but for the region of a bucket of AWS.

    Args:
        uri: With options in its query: `endpoint_override` (host:port of a server that isn't Amazon's or Google's) and
            `scheme` (http or https), and of s3 `region`, `force_virtual_addressing` (true or false) and
            `tls_ca_file_path`.

    Returns:
        The file system, and the path inside of it, which begins with the bucket.

    Raises:
        StorageAddressError: There is no such option, or it can't have this value.
        OSError: The region can't be found out.
    """
    parts = urlsplit(uri)
    path = unquote(f"{parts.netloc}{parts.path}")
    options = _options(uri, parts.query, _S3_OPTIONS if parts.scheme == "s3" else _GS_OPTIONS)
    if parts.scheme == "gs":
        return pafs.GcsFileSystem(retry_time_limit=_GS_RETRIES, **options), path
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = _region(parts.netloc)
    filesystem = pafs.S3FileSystem(
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # a file of up to 10 MB is one put, not an upload in parts that can be left unfinished
        **options,
    )
    return filesystem, path


def _options(uri: str, query: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise StorageAddressError(
                f"the storage root {uri!r} has the unknown option {name!r}; {nearest(name, allowed)}"
            )
        if name == "scheme" and value not in _SCHEMES:
            raise StorageAddressError(f"the storage root {uri!r} has scheme={value}; allowed: http or https.")
        if name == "force_virtual_addressing" and value not in _YES_OR_NO:
            raise StorageAddressError(f"the storage root {uri!r} has {name}={value}; allowed: true or false.")
        options[name] = _YES_OR_NO[value] if name == "force_virtual_addressing" else value
    return options


def _region(bucket: str) -> str:
    try:
        return str(pafs.resolve_s3_region(bucket))
    except pa.ArrowInvalid as error:
        raise StorageAddressError(f"{bucket!r} can't be the name of a bucket: {error}") from error
