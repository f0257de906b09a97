"""Connect to object stores.

    filesystem, path = connect("s3://bucket/folder?endpoint_override=minio:9000&scheme=http")

The client tries a request four times: refusals become an error within half a minute, silence within a minute. Retries
beyond that are in `dim_ray.store.files.faults`.
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
    """Return the file system of an s3:// or gs:// URI and the path in it, contacting it only for an AWS region.

    Options in its query are `endpoint_override` (host:port) and `scheme` (http or https); for s3 also `region`,
    `force_virtual_addressing` (true or false) and `tls_ca_file_path`.

    Raises:
        StorageAddressError: An option is unknown, or has a wrong value.
        OSError: The bucket's region can't be found out.
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
        allow_delayed_open=True,  # up to 10 MB are one put, not an upload in parts that may stay unfinished
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
