"""A small hub on loopback that the real library talks to, and into which a test puts repositories and trouble.

It answers the calls that the library makes to list, fetch and upload. Large files are listed by their sha256 and served
behind a redirect, small ones by git's sha1, as on the hub.
"""

import base64
import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

LARGE = (".safetensors", ".npz", ".parquet", ".bin", ".pt")
READ, WRITE = "hf_reads", "hf_writes"
"""Tokens that the hub knows."""


@dataclass
class Repository:
    """What one repository holds."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    """Files that its .gitignore names."""

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        whole = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        told = json.dumps([len(self.commits), sorted((name, digest_of(name, it)) for name, it in whole.items())])
        commit = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit], self.branches[branch] = whole, commit
        return commit


def altered(content: bytes) -> bytes:
    """Give as many bytes, of which the last is another one."""
    return content[:-1] + bytes([content[-1] ^ 1])


def is_large(name: str) -> bool:
    return name.endswith(LARGE)


def digest_of(name: str, content: bytes) -> str:
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """The hub, and what is wrong with it."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    """By `models/OWNER/NAME` or `datasets/OWNER/NAME`."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and token of each."""
    lists: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda files: files
    """Changes what a listing says."""
    sends: Callable[[str, bytes], bytes] = lambda _, content: content
    """Changes what is served for a file."""
    breaks: dict[str, int] = field(default_factory=dict)
    """How often the connection breaks in the middle of a file."""
    holds: dict[str, threading.Event] = field(default_factory=dict)
    """What is waited for in the middle of a file."""
    halfway: threading.Event = field(default_factory=threading.Event)
    """Set when the hub waits there."""
    chunks: Path | None = None
    """Where large files are stored in chunks, by the library's own code; None for a hub without Xet."""
    arrives: Callable[[str], bytes] = lambda _: b""
    """Gives the content of a file in chunks, by its sha256, when it is committed."""

    def add(self, name: str, files: Mapping[str, bytes], **settings: Any) -> str:
        """Make a repository; give its commit."""
        self.repositories[name] = Repository(**settings)
        return self.repositories[name].commit(files)

    def fetched(self) -> list[str]:
        """Give the files of which bytes were asked for."""
        asked = [path for method, path, _ in self.requests if method == "GET"]
        return [path for path in asked if "/resolve/" in path or path.startswith("/store/")]


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of every request."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.requests.append((self.command, unquote(parts.path), token))
        try:
            self._route([unquote(it) for it in parts.path.strip("/").split("/")], parse_qs(parts.query), body, token)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, {"error": refused.message}, {name: it for name, it in headers.items() if it})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: list[str], query: Mapping[str, list[str]], body: bytes, token: str) -> None:
        if token not in ("", READ, WRITE):
            raise _Refused(401, message="Invalid credentials in Authorization header")
        match path:
            case ["api", "repos", "create"]:
                self._create(json.loads(body), token)
            case ["api", "validate-yaml"]:
                self._send(200, {"errors": [], "warnings": []})
            case ["api", kind, owner, name, *rest]:
                self._api(f"{kind}/{owner}/{name}", rest, query, body, token)
            case ["store", commit, *inner] | ["datasets", _, _, "resolve", commit, *inner]:
                self._file(path, commit, "/".join(inner), token)
            case [_, _, "resolve", commit, *inner]:
                self._file(path, commit, "/".join(inner), token)
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self._writable(f"models/{owner}/{name.removesuffix('.git')}", token)
                self._batch(json.loads(body))
            case ["lfs", oid]:
                self.hub.uploads[oid] = body
                self._send(200, {})
            case _:
                raise _Refused(404, message="no such page")

    def _readable(self, key: str, token: str) -> Repository:
        found = self.hub.repositories.get(key)
        if found is None or (found.private and not token):
            raise _Refused(404 if token else 401, "RepoNotFound" if token else "", "Repository not found")
        return found

    def _writable(self, key: str, token: str) -> Repository:
        found = self._readable(key, token)
        if token != WRITE:
            raise _Refused(403 if token else 401, message="You have no right to write here")
        return found

    def _create(self, asked: Mapping[str, Any], token: str) -> None:
        if token != WRITE:
            raise _Refused(403 if token else 401, message="You have no right to make this")
        name = f"{asked['organization']}/{asked['name']}"
        key = f"{asked.get('type') or 'model'}s/{name}"
        there = key in self.hub.repositories
        if not there:
            self.hub.add(key, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.hub.repositories[key].private = asked.get("visibility") == "private"
        self._send(409 if there else 200, {"url": f"{self.hub.address}/{name}"})

    def _api(self, key: str, rest: list[str], query: Mapping[str, list[str]], body: bytes, token: str) -> None:
        match rest:
            case [] | ["revision", _]:
                self._info(key, self._readable(key, token), rest[1] if rest else "main", listed="blobs" in query)
            case ["xet-read-token" | "xet-write-token", _]:
                self._readable(key, token)
                self._send_chunk_access()
            case ["branch", branch]:
                found = self._writable(key, token)
                there = branch in found.branches
                found.branches.setdefault(branch, found.branches["main"])
                self._send(409 if there else 200, {})
            case ["preupload", _]:
                found = self._writable(key, token)
                files = [
                    {
                        "path": it["path"],
                        "uploadMode": "lfs" if is_large(it["path"]) else "regular",
                        "shouldIgnore": it["path"] in found.ignored,
                    }
                    for it in json.loads(body)["files"]
                ]
                self._send(200, {"files": files})
            case ["commit", branch]:
                self._commit(key, self._writable(key, token), branch, body)
            case _:
                raise _Refused(404, message="no such page")

    def _info(self, key: str, found: Repository, revision: str, *, listed: bool) -> None:
        commit = self._commit_of(found, revision)
        files: list[dict[str, Any]] = []
        for name, content in found.commits[commit].items():
            digest, size = digest_of(name, content), len(content)
            files.append({"rfilename": name, "size": size, "blobId": digest[:40]} if listed else {"rfilename": name})
            if listed and is_large(name):
                files[-1]["lfs"] = {"sha256": digest, "size": size, "pointerSize": 134}
        name = key.partition("/")[2]
        told = {"id": name, "modelId": name, "sha": commit, "private": found.private, "tags": [], "downloads": 0}
        self._send(200, told | {"likes": 0, "gated": found.gated, "siblings": self.hub.lists(files)})

    def _commit_of(self, found: Repository, revision: str) -> str:
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _commit(self, key: str, found: Repository, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit") != found.branches[branch]:
            raise _Refused(412, message="A commit has happened since")
        files: dict[str, bytes] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                oid = value["oid"]
                files[value["path"]] = self.hub.arrives(oid) if self.hub.chunks else self.hub.uploads[oid]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        commit = found.commit(files, branch)
        url = f"{self.hub.address}/{key.partition('/')[2]}/commit/{commit}"
        self._send(200, {"commitOid": commit, "commitUrl": url})

    def _batch(self, asked: Mapping[str, Any]) -> None:
        objects = [
            it | {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{it['oid']}"}}}
            for it in asked["objects"]
            if it["oid"] not in self.hub.uploads
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _file(self, path: list[str], revision: str, name: str, token: str) -> None:
        stored = path[0] == "store"
        if stored:
            found = next(it for it in self.hub.repositories.values() if revision in it.commits)
        else:
            kind, at = ("datasets", 1) if path[0] == "datasets" else ("models", 0)
            found = self._readable(f"{kind}/{path[at]}/{path[at + 1]}", token)
            if found.gated and token != WRITE:
                raise _Refused(403, "GatedRepo", "Access to this model is restricted")
        commit = self._commit_of(found, revision)
        if name not in found.commits[commit]:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = found.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest_of(name, content)}"'}
        if is_large(name) and not stored:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": headers["ETag"]}
            if self.hub.chunks:
                headers["X-Xet-Hash"] = self._chunk_hash(content)
                headers["X-Xet-Refresh-Route"] = (
                    f"{self.hub.address}/api/models/{'/'.join(path[:2])}/xet-read-token/main"
                )
            # By another name, as large files lie with others than the hub.
            elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
            self._send(302, {}, headers | {"Location": f"{elsewhere}/store/{commit}/{name}"})
        else:
            self._send_file(name, self.hub.sends(name, content), headers)

    def _send_chunk_access(self) -> None:
        headers = {"Cas-Url": f"local://{self.hub.chunks}", "Access-Token": "any", "Token-Expiration": "9999999999"}
        told = {"casUrl": headers["Cas-Url"], "accessToken": "any", "exp": 9999999999}
        self._send(200, told, {f"X-Xet-{name}": it for name, it in headers.items()})

    def _chunk_hash(self, content: bytes) -> str:
        import hf_xet  # noqa: PLC0415 - not on every platform

        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return str(hf_xet.hash_files([file.name])[0].hash)

    def _send_file(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        part = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        length = {"Content-Length": str(len(content) - begin)}
        for header, value in {**headers, **part, **length}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = begin + (len(content) - begin) // 2
        self.wfile.write(content[begin:half])
        if self.hub.breaks.get(name, 0) > 0:
            self.hub.breaks[name] -= 1
            self.close_connection = True
            return
        if name in self.hub.holds:
            self.wfile.flush()
            self.hub.halfway.set()
            self.hub.holds[name].wait(30)
        self.wfile.write(content[half:])

    def _send(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that was killed."""


@contextmanager
def running_hub() -> Generator[Hub]:
    """Run a hub in a thread."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        for event in hub.holds.values():
            event.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Give a hub that the library of this process talks to, without a token and with caches of its own."""
    # Not at the top: every test run loads this module.
    from huggingface_hub import constants  # noqa: PLC0415
    from huggingface_hub.utils import close_session  # noqa: PLC0415

    home = tmp_path_factory.mktemp("hub")
    with running_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "library"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The storage behind Xet is a protocol of its own; without it the library uploads by git-lfs.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HAGD_CACHE", str(home / "hagd"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        # The library waits for seconds before it tries again.
        monkeypatch.setattr(time, "sleep", lambda _: None)
        close_session()
        yield found
        close_session()


def environment_of(hub: Hub, home: Path) -> dict[str, str]:
    """Give what a process of its own needs to talk to the hub."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home / "library"),
        "HAGD_CACHE": str(home / "hagd"),
        **({} if hub.chunks else {"HF_HUB_DISABLE_XET": "1"}),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
