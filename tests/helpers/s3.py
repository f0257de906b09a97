"""An S3-compatible server on this machine, and a proxy before it that does to requests what networks and servers do.

    with Proxy() as proxy:
        proxy.faults.append(Fault("refuse", "PUT", times=3))
        open_root(proxy.uri(new_bucket())).write("a", b"1")

The server is moto's. pyarrow talks to it, or to the proxy, over HTTP, as it would to MinIO.
"""

from __future__ import annotations

import functools
import http.client
import http.server
import logging
import socket
import struct
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Does = Literal["refuse", "fail", "deny", "forget", "vanish", "cut", "lose", "hang", "truncate", "falsify"]
"""refuse: 503 SlowDown; fail: 500; deny: 403; forget: 404, there is no such bucket; vanish: 404, there is no such key;
cut: hangs up in the middle of the request's body; lose: the server gets the request, and its answer is lost; hang: no
answer; truncate: hangs up in the middle of the answer's body; falsify: the answer's body is cut short and is not what
it was, and its headers say nothing of it (a body that is only cut short may pass for whole: pyarrow takes for the rest
what its memory holds, which may be that of the file when it was written or read before)."""

_ANSWERS = {
    "refuse": (503, "SlowDown"),
    "fail": (500, "InternalError"),
    "deny": (403, "AccessDenied"),
    "forget": (404, "NoSuchBucket"),
    "vanish": (404, "NoSuchKey"),
}
_OWN_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}
"""Environment of whoever talks to the server."""


@functools.cache
def server_port() -> int:
    """Starts the server, which ends with this process, and returns where it listens."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return int(server.get_host_and_port()[1])


def new_bucket() -> str:
    """Makes an empty bucket, and returns its name."""
    bucket = f"bucket-{uuid.uuid4().hex}"
    request = urllib.request.Request(f"http://127.0.0.1:{server_port()}/{bucket}", method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
    return bucket


def uri_at(port: int, path: str) -> str:
    """Returns the address of a bucket and folder on the server, or on a proxy, that listens there."""
    return f"s3://{path}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


@dataclass
class Fault:
    """What happens to the next requests that it's about."""

    does: Does
    method: str
    times: int = 1_000_000
    about: str = ""
    """Part of the path or query of the requests."""


@dataclass(frozen=True)
class Request:
    """One that was answered, or not."""

    method: str
    path: str
    fault: Does | None = field(default=None)


class Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on to a server, but for its faults."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = server_port()
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.is_closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.is_closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def uri(self, path: str) -> str:
        """Returns the address of a bucket and folder, through this proxy."""
        return uri_at(self.server_address[1], path)

    def fault_of(self, method: str, path: str) -> Does | None:
        """Notes a request, and takes one from the first fault that is about it."""
        with self._lock:
            found = next((one for one in self.faults if one.times and one.method == method and one.about in path), None)
            if found is not None:
                found.times -= 1
            self.requests.append(Request(method, path, found.does if found else None))
            return found.does if found else None

    def num_faults(self) -> int:
        """Returns to how many requests something was done."""
        return sum(request.fault is not None for request in self.requests)

    @contextmanager
    def doing(self, *faults: Fault) -> Iterator[None]:
        """Has these faults for a while, and no other; forgets the requests before."""
        self.requests.clear()
        self.faults[:] = faults
        yield
        self.faults.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients hang up, too."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _do(self) -> None:
        fault = self.server.fault_of(self.command, self.path)
        if fault == "cut":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self._hang_up()
        body = self._body()
        if fault == "hang":
            self.server.is_closing.wait(600)
            return self._hang_up()
        if fault in _ANSWERS:
            return self._refuse(*_ANSWERS[fault])
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OWN_HEADERS:
                behind.putheader(name, value)
        behind.putheader("Content-Length", str(len(body)))
        behind.endheaders(body)
        answer = behind.getresponse()
        data = answer.read()
        behind.close()
        if fault == "lose":
            return self._hang_up()
        length = int(answer.headers.get("Content-Length") or 0) if self.command == "HEAD" else len(data)
        if fault == "falsify":
            data = bytes(byte ^ 0xFF for byte in data[: len(data) // 2])
            length = len(data)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "truncate":
            self.wfile.write(data[: len(data) // 2])
            return self._hang_up()
        self.wfile.write(data)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>asked of it by a test</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        """Ends the connection by a reset, not by an orderly end that could pass for the end of a body."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass
