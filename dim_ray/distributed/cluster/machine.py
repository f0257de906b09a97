"""What Ray needs of this machine, checked before Ray starts on it.

    check_machine()                     # raises what can't be worked around
    folder = make_folder(progress)      # for Ray's files

`tune`, `tune --dry-run`, `doctor` and the other commands all start Ray by way of these.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from dim_ray.errors import ResourceError
from dim_ray.progress import Progress

__all__ = ["LOOPBACK", "check_machine", "make_folder", "object_store_bytes"]

LOOPBACK = "127.0.0.1"
"""Address on which a Ray of one's own listens."""

_CHOSEN = ("RAY_TMPDIR", "TMPDIR")
_USUAL = ("/tmp", "/var/tmp")
_PREFIX = "dim-"  # short, because a socket's path is
_SOCKET = "/session_2026-11-30_08-00-00_000000_{pid}/sockets/plasma_store"  # as Ray names its longest one
_LEAST_BYTES = 100_000_000
_TRIED_BYTES = 1_000_000
_LEAST_ADDRESS_SPACE = 8_000_000_000  # measured
_LIMITED_STORE_BYTES = 2_000_000_000
_SHARED_MEMORY = Path("/dev/shm")


def check_machine() -> None:
    """Refuse a machine on which Ray can't work, whatever folder it has.

    Raises:
        ResourceError: The loopback interface is down, or there is too little address space or no shared memory.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname()[:2], timeout=5.0).close()
    except OSError as error:
        raise ResourceError(
            f"Ray's processes talk over {LOOPBACK}, and a test connection there fails ({_reason(error)}); turn the "
            "loopback interface and IPv4 on, or free some of the machine's ports."
        ) from error
    if sys.platform == "linux" and not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        what = "is read-only for this user" if _SHARED_MEMORY.exists() else "doesn't exist"
        raise ResourceError(
            f"Ray keeps its objects in the shared memory {_SHARED_MEMORY}, which {what}; mount a tmpfs there that "
            "every user may write to (mode 1777)."
        )
    limit = _address_space()
    if limit is not None and limit < _LEAST_ADDRESS_SPACE:
        raise ResourceError(
            f"A process may have {limit / 1e9:.1f} GB of address space (ulimit -v), and Ray needs at least "
            f"{_LEAST_ADDRESS_SPACE / 1e9:.0f} GB; raise the limit, or take it away with `ulimit -v unlimited`."
        )


def object_store_bytes() -> int | None:
    """Return how much of the address space Ray's store of objects may take; None if that isn't limited.

    Every process of Ray maps the whole store.
    """
    return None if _address_space() is None else _LIMITED_STORE_BYTES


def make_folder(progress: Progress) -> Path:
    """Return a new folder for Ray's files that no other user can enter; say if it isn't where the user wants it.

    Ray puts sockets there, whose paths are limited to about 100 bytes, so a long TMPDIR can't be used.

    Raises:
        ResourceError: There is no such place.
    """
    names = {os.environ.get(name, ""): f"{name}=" for name in _CHOSEN}
    refusals = []
    for place in filter(None, dict.fromkeys((*names, *_USUAL))):
        folder = None
        try:
            if not os.path.isabs(place):
                raise OSError("the path isn't absolute")
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))  # mode 0700, and ours
            _try(folder)
        except (OSError, UnicodeEncodeError) as error:
            shown = os.fsencode(place).decode(errors="replace")
            refusals.append(f"{names.get(place, '')}{shown}: {_reason(error)}")
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        if refusals:
            progress.message(f"Ray's temporary files go to {folder} ({'; '.join(refusals)})")
        return folder
    raise ResourceError(
        f"There is no folder for Ray's temporary files, with a short path and {_LEAST_BYTES / 1e6:.0f} MB "
        f"({'; '.join(refusals)}); set TMPDIR to one that you can write to."
    )


def _address_space() -> int | None:
    """Return the limit that `ulimit -v` shows, in bytes."""
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _try(folder: Path) -> None:
    """Raise an error if Ray's files don't fit here, or sockets don't work."""
    path = f"{folder}{_SOCKET.format(pid=os.getpid())}"
    limit = 103 if sys.platform == "darwin" else 107
    if (length := len(path.encode())) > limit:  # Ray refuses what isn't UTF-8
        raise OSError(f"the path is {length - limit} bytes too long for Ray's sockets")
    free = shutil.disk_usage(folder).free
    if free < _LEAST_BYTES:
        raise OSError(f"only {free / 1e6:.0f} MB are free")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_TRIED_BYTES))  # finds a quota
    with socket.socket(socket.AF_UNIX) as any_socket:
        any_socket.bind(str(folder / "socket"))
    (folder / "socket").unlink()


def _reason(error: OSError | UnicodeEncodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "the path isn't UTF-8"
