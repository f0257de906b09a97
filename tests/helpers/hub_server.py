"""The part of the Hugging Face Hub's HTTP that huggingface_hub uses: create, upload (plain and LFS), list, download.

    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)

Or alone, for a client in another environment: `python -m tests.helpers.hub_server` prints the HF_ENDPOINT.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

WRITER, READER = "hf_writer", "hf_reader"
"""Tokens."""
LICENSES = ("apache-2.0", "cc-by-4.0", "mit")
LFS = (".safetensors", ".pt2", ".png", ".parquet")

Files = dict[str, bytes]


class RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str = "", **more: str) -> None:
        super().__init__(message or code)
        self.status, self.code, self.more = status, code, more


@dataclass
class Repository:
    """Branches name commits, which are all files by path."""

    is_private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, Files] = field(default_factory=lambda: {"0" * 40: {}})

    def commit_of(self, revision: str) -> str:
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise RefusedError(404, "RevisionNotFound")
        return commit

    def commit(self, branch: str, files: Files) -> str:
        """Makes the files the newest commit of a branch."""
        sums = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
        oid = hashlib.sha1(f"{self.branches[branch]}{sums}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def files(self, revision: str = "main") -> Files:
        return self.commits[self.commit_of(revision)]


class HubServer(http.server.ThreadingHTTPServer):
    """A Hub on this machine; repositories by kind and name, such as ("models", "org/name")."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.agents: set[str] = set()
        self.uses_lfs = True
        self.is_down = False
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _do(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.server.agents.add(self.headers.get("User-Agent", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.server.is_down:
                raise RefusedError(503, "", "under maintenance")
            self._answer(200, *self._route([unquote(part) for part in urlsplit(self.path).path.split("/")[1:]], body))
        except RefusedError as error:
            content = {"error": str(error), "errors": [{"message": str(error)}]}
            self._answer(error.status, {**content, **error.more}, {"X-Error-Code": error.code} if error.code else {})

    do_GET = do_HEAD = do_POST = do_PUT = _do  # noqa: N815

    def _route(self, parts: list[str], body: bytes) -> tuple[Any, dict[str, str]]:
        match self.command, parts:
            case "POST", ["api", "repos", "create"]:
                return self._create(json.loads(body)), {}
            case "POST", ["api", "validate-yaml"]:
                return self._validate(json.loads(body)["content"]), {}
            case "PUT", ["lfs", oid]:
                self.server.large[oid] = body
                return {}, {}
            case "POST", [*_, org, name, "info", "lfs", "objects", "batch"] if org and name.endswith(".git"):
                objects = json.loads(body)["objects"]
                href = f"{self.server.url}/lfs/"
                return {"objects": [{**o, "actions": {"upload": {"href": href + o["oid"]}}} for o in objects]}, {}
            case _, ["api", kind, org, name, *rest]:
                return self._repository(kind, f"{org}/{name}", rest, body), {}
            case "GET" | "HEAD", ["datasets", org, name, "resolve", revision, *path]:
                return self._file(self._find("datasets", f"{org}/{name}"), revision, "/".join(path))
            case "GET" | "HEAD", [org, name, "resolve", revision, *path]:
                return self._file(self._find("models", f"{org}/{name}"), revision, "/".join(path))
        raise RefusedError(400, "", f"{self.command} {self.path} isn't part of this server")

    def _file(self, found: Repository, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        commit = found.commit_of(revision)
        if path not in found.commits[commit]:
            raise RefusedError(404, "EntryNotFound")
        data = found.commits[commit][path]
        return data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}

    def _repository(self, kind: str, name: str, rest: list[str], body: bytes) -> Any:
        found = self._find(kind, name)
        match self.command, rest:
            case "GET", [] | ["revision", _]:
                commit = found.commit_of(rest[1] if rest else "main")
                return {"id": name, "sha": commit, "private": found.is_private, "siblings": []}
            case "GET", ["tree", revision]:
                return [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in found.files(revision).items()
                ]
            case "POST", ["preupload", revision]:
                self._check_writer()
                found.commit_of(revision)
                paths = [one["path"] for one in json.loads(body)["files"]]
                modes = ["lfs" if self.server.uses_lfs and path.endswith(LFS) else "regular" for path in paths]
                pairs = zip(paths, modes, strict=True)
                return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in pairs]}
            case "POST", ["branch", branch]:
                self._check_writer()
                if branch in found.branches:
                    raise RefusedError(409, "")
                found.branches[branch] = found.branches["main"]
                return {}
            case "POST", ["commit", branch]:
                self._check_writer()
                files = self._changed(found.files(branch), body)
                oid = found.commit(branch, files)
                return {"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid}
        raise RefusedError(400, "", f"{self.command} {self.path} isn't part of this server")

    def _changed(self, files: Files, body: bytes) -> Files:
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return files

    def _create(self, asked: dict[str, Any]) -> Any:
        self._check_writer()
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "others":
            raise RefusedError(403, "", "You don't have the rights to create a repository in this namespace")
        url = f"{self.server.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        if (kind, name) in self.server.repositories:
            raise RefusedError(409, "", "You already created this repo", url=url)
        self.server.repositories[kind, name] = Repository(is_private=asked.get("visibility") == "private")
        return {"url": url}

    def _validate(self, content: str) -> Any:
        license = yaml.safe_load(content.split("---")[1]).get("license")
        if license not in (None, *LICENSES):
            raise RefusedError(400, "", f'"license" must be one of {", ".join(LICENSES)}')
        return {"errors": [], "warnings": []}

    def _find(self, kind: str, name: str) -> Repository:
        found = self.server.repositories.get((kind, name))
        if found is None or (found.is_private and self._token() not in (WRITER, READER)):
            raise RefusedError(404 if found is None else 401, "RepoNotFound")
        return found

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _check_writer(self) -> None:
        if self._token() != WRITER:
            raise RefusedError(403 if self._token() == READER else 401, "", "Invalid username or password.")

    def _answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    with HubServer() as server:
        print(server.url, flush=True)
        while True:
            time.sleep(60)
