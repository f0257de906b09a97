"""An S3 server of this machine that answers as late as one far away, and counts: moto's, in a process of its own.

    python -m benchmarks.late_storage 0.05     prints its port; GET /-/counts answers with what it has seen so far

Requests with the header X-Worker neither wait nor count: they are those of other machines.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["LateStorage", "late_storage"]

_COUNTS, _FILL = "/-/counts", "/-/fill"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}
_BUCKET = "bench"


@dataclass(frozen=True)
class LateStorage:
    """A running server."""

    port: int

    @property
    def root(self) -> str:
        """Address of an empty storage."""
        return f"s3://{_BUCKET}/store?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def counts(self) -> dict[str, Any]:
        """Return requests by method and whether they are about the journal, with the bytes in both directions."""
        counts: dict[str, Any] = json.loads(self._ask("GET", _COUNTS))
        return counts

    def put(self, key: str, data: bytes) -> None:
        """Write a file as another machine would."""
        self._ask("PUT", f"/{_BUCKET}/store/{key}", data)

    def fill(self, keys: Sequence[str]) -> None:
        """Write empty files."""
        self._ask("POST", _FILL, json.dumps([f"store/{key}" for key in keys]).encode())

    def make_bucket(self) -> None:
        self._ask("PUT", f"/{_BUCKET}")

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, data, {"X-Worker": "1"})
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def late_storage(latency_seconds: float) -> Iterator[LateStorage]:
    """Run a server while the body runs."""
    os.environ.update(_CREDENTIALS)
    command = [sys.executable, "-m", "benchmarks.late_storage", str(latency_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            server = LateStorage(int(process.stdout.readline()))
            server.make_bucket()
            yield server
        finally:
            process.terminate()


class _Late:
    """A WSGI application that waits before it hands a request on."""

    def __init__(self, inside: Any, backend: Any, latency_seconds: float) -> None:
        self._inside = inside
        self._backend = backend
        self._latency_seconds = latency_seconds
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == _COUNTS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._counts).encode()]
        if path == _FILL:
            for key in json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))):
                self._backend.put_object(_BUCKET, key, b"")
            start_response("200 OK", [])
            return []
        if "HTTP_X_WORKER" in environ:
            answer: Iterable[bytes] = self._inside(environ, start_response)
            return answer
        time.sleep(self._latency_seconds)
        answer = list(self._inside(environ, start_response))
        size_bytes = int(environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0)
        own = {environ["REQUEST_METHOD"]: 1, "requests": 1, "bytes sent": size_bytes}
        own["bytes received"] = sum(map(len, answer))
        if "journal" in path:
            own = {**own, "journal requests": 1, "journal bytes sent": size_bytes}
        with self._lock:
            for name, value in own.items():
                self._counts[name] = self._counts.get(name, 0) + value
        return answer


def _serve(latency_seconds: float) -> None:
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    application = _Late(DomainDispatcherApplication(create_backend_app), backend, latency_seconds)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
