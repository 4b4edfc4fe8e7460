"""What the S3 store promises beyond the port: servers that are not fit, that fail in the middle, or are not there."""

import re
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.location import open_store
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import EnvironmentCredentials, S3Settings
from hagd.errors import CorruptArtifactError, InvalidInputError, StoreFullError, UnavailableError
from moto_server import Application, running_moto
from real_servers import s3_param
from s3_stores import keys, new_s3_store, new_settings
from servers.found import S3Address
from servers.process import free_ports

Wsgi = dict[str, Any]
Handle = Callable[[Application, Wsgi, Any], Any]


@pytest.fixture(autouse=True)
def one_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in this process takes seconds for all races of the probe, and these tests know how they end."""
    monkeypatch.setattr("hagd.artifacts.s3_client._RACES", 1)


def trouble(handle: Handle) -> Callable[[Application], Application]:
    """Put `handle` in front of a server."""
    return lambda application: lambda environ, start: handle(application, environ, start)


def is_put(environ: Wsgi, part: str = "/objects/") -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and part in environ["PATH_INFO"]


def refuse(environ: Wsgi, start: Any, status: str, code: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_a_condition_is_refused_at_the_start(header: str) -> None:
    def ignore(inner: Application, environ: Wsgi, start: Any) -> Any:
        environ.pop(f"HTTP_{header.upper().replace('-', '_')}", None)
        return inner(environ, start)

    with running_moto(trouble(ignore)) as server, pytest.raises(InvalidInputError, match=f"keep to {header}") as caught:
        new_s3_store(server, probe=True)
    assert "such as MinIO" in caught.value.hint


def test_a_server_that_lets_two_writers_win_is_refused_at_the_start() -> None:
    seen: set[str] = set()

    def forget(inner: Application, environ: Wsgi, start: Any) -> Any:
        """Keep to the conditions of the probe's first object, and let all racers of the others win."""
        if re.search(r"probe-\w+-\d+$", environ["PATH_INFO"]) and environ["PATH_INFO"] not in seen:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return inner(environ, start)

    with running_moto(trouble(forget)) as server, pytest.raises(InvalidInputError, match="lets several writers win"):
        new_s3_store(server, probe=True)


@pytest.mark.parametrize("kind", ["moto", s3_param("minio")])
def test_a_fit_server_passes_the_probe_which_leaves_nothing_behind(kind: str, request: pytest.FixtureRequest) -> None:
    store = new_s3_store(request.getfixturevalue(kind), probe=True)
    assert list(store._client.list_objects(store._bucket, recursive=True)) == []


def test_a_dead_server_is_unavailable_within_seconds() -> None:
    settings = S3Settings(f"http://127.0.0.1:{free_ports(1)[0]}", "bucket", tries=2)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        S3Store(settings, keys(S3Address("", "key", "secret")))
    assert time.monotonic() - began < 5
    assert "nothing is lost" in caught.value.hint


def test_a_server_that_hangs_is_unavailable_after_the_read_timeout() -> None:
    def hang(inner: Application, environ: Wsgi, start: Any) -> Any:
        if is_put(environ):
            time.sleep(0.3)
        return inner(environ, start)

    with running_moto(trouble(hang)) as server:
        store = new_s3_store(server, read_timeout_seconds=0.1, tries=1)
        with pytest.raises(UnavailableError, match="does not answer"):
            store.put_if_absent("a", b"1")


def test_a_write_whose_answer_got_lost_has_won_all_the_same() -> None:
    lost: list[str] = []

    def lose(inner: Application, environ: Wsgi, start: Any) -> Any:
        answer = inner(environ, start)
        if is_put(environ) and not lost:
            lost.append(environ["PATH_INFO"])
            raise ConnectionAbortedError
        return answer

    with running_moto(trouble(lose)) as server:
        store = new_s3_store(server)
        etag = store.put_if_absent("a", b"1")
        assert lost
        assert etag is not None
        assert store.replace("a", b"2", etag)


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_write_that_broke_off_tells_nobody_the_signed_address(is_readable: bool) -> None:
    def drop(inner: Application, environ: Wsgi, start: Any) -> Any:
        if is_put(environ) or (not is_readable and environ["REQUEST_METHOD"] == "GET"):
            raise ConnectionAbortedError
        return inner(environ, start)

    with running_moto(trouble(drop)) as server:
        store = new_s3_store(server, tries=1)
        with pytest.raises(UnavailableError, match="does not answer: ") as caught:
            store.put_if_absent("a", b"1")
    assert "X-Amz" not in "".join(traceback.format_exception(caught.value))


def test_a_conflict_of_conditional_writes_is_looked_at_again() -> None:
    conflicts = iter(range(2))

    def conflict(inner: Application, environ: Wsgi, start: Any) -> Any:
        if is_put(environ) and next(conflicts, None) is not None:
            return refuse(environ, start, "409 Conflict", "ConditionalRequestConflict")
        return inner(environ, start)

    with running_moto(trouble(conflict)) as server:
        assert new_s3_store(server).put_if_absent("a", b"1")


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        ("507 Insufficient Storage", "XMinioStorageFull", StoreFullError, "no room left"),
        ("403 Forbidden", "AccessDenied", UnavailableError, "refuses: AccessDenied"),
        ("503 Slow Down", "SlowDown", UnavailableError, "refuses: SlowDown"),
        ("404 Not Found", "NoSuchBucket", UnavailableError, "refuses: NoSuchBucket"),
    ],
)
def test_what_a_server_refuses_is_an_error_of_the_tree(
    status: str, code: str, kind: type[Exception], message: str
) -> None:
    def deny(inner: Application, environ: Wsgi, start: Any) -> Any:
        if is_put(environ, "/some/folder/"):
            return refuse(environ, start, status, code)
        return inner(environ, start)

    with running_moto(trouble(deny)) as server:
        store = new_s3_store(server, tries=1)
        with pytest.raises(kind, match=message):
            store.put_if_absent("a", b"1")
        with pytest.raises(kind, match=message):
            store.put_blob(b"abc", "x/y")


def test_a_download_that_breaks_off_goes_on_where_it_was() -> None:
    starts: list[str] = []

    def break_off(inner: Application, environ: Wsgi, start: Any) -> Any:
        if environ["REQUEST_METHOD"] != "GET" or "/blobs/" not in environ["PATH_INFO"]:
            return inner(environ, start)
        starts.append(environ.get("HTTP_RANGE", ""))
        whole = b"".join(inner(environ, start))
        return [whole[: len(whole) // 2]] if len(starts) < 3 else [whole]

    data = bytes(range(251)) * 17389
    with running_moto(trouble(break_off)) as server:
        store = new_s3_store(server)
        ref = store.put_blob(data, "application/octet-stream")
        assert store.get_blob(ref) == data
    assert starts[0] == ""
    assert len(set(starts)) == 3


@pytest.mark.parametrize("kind", [s3_param("minio"), s3_param("versitygw")])
def test_a_large_blob_goes_in_parts_and_is_never_whole_in_memory(kind: str, request: pytest.FixtureRequest) -> None:
    store = new_s3_store(request.getfixturevalue(kind))
    tracemalloc.start()
    ref = store.put_blob(lambda: (bytes([it % 251]) * (1 << 20) for it in range(67)), "application/octet-stream")
    assert store.check_blob(ref)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ref.bytes == 67 << 20
    # Three parts on their way, the next one, and what the client copies of them.
    assert peak_bytes < 60 << 20


@pytest.mark.parametrize("other", [b"xyz" * (7 << 20), b"abc" * (6 << 20)])
@pytest.mark.parametrize("piece_bytes", [1 << 20, 1 << 30])
def test_a_blob_that_changes_while_it_is_written_gets_no_name(moto: S3Address, other: bytes, piece_bytes: int) -> None:
    store, versions = new_s3_store(moto), iter([b"abc" * (7 << 20), other])

    def pieces() -> list[bytes]:
        version = next(versions)
        return [version[start : start + piece_bytes] for start in range(0, len(version), piece_bytes)]

    with pytest.raises(CorruptArtifactError, match="changed while it was written"):
        store.put_blob(pieces, "text/plain")
    assert list(store.list_blobs()) == []


def test_a_bucket_that_is_not_there_is_made_or_named(moto: S3Address) -> None:
    settings = new_settings(moto)
    with pytest.raises(UnavailableError, match="there is no bucket"):
        S3Store(settings, keys(moto), create=False)
    assert S3Store(settings, keys(moto)).list("") == []


@pytest.mark.parametrize("key", ["../a", "a//b", "A", "a..b"])
def test_keys_that_could_leave_the_folder_are_refused(moto: S3Address, key: str) -> None:
    store = new_s3_store(moto)
    with pytest.raises(InvalidInputError, match="is no key of a store"):
        store.put_if_absent(key, b"1")


def test_the_store_opens_at_its_location_with_keys_from_the_environment(
    moto: S3Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_s3_store(moto)
    ref = store.put_blob(b"abc", "x/y")
    monkeypatch.setenv("HAGD_S3_ACCESS_KEY", moto.access_key)
    monkeypatch.setenv("HAGD_S3_SECRET_KEY", moto.secret_key)
    assert moto.secret_key not in store.location
    assert open_store(store.location).get_blob(ref) == b"abc"


@pytest.mark.parametrize("location", ["s3:", "s3:bucket", "s3:http://host", "s3:ftp://h/b", "s3:http://key:secret@h/b"])
def test_an_address_of_no_bucket_is_refused(location: str) -> None:
    with pytest.raises(InvalidInputError, match="no S3 store can be opened"):
        open_store(location)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    (tmp_path / "secret").write_text("first\n")
    yield {"HAGD_S3_ACCESS_KEY": "key", "HAGD_S3_SECRET_KEY_FILE": str(tmp_path / "secret")}


def test_keys_in_files_are_read_again_so_that_they_can_be_rotated(environment: dict[str, str]) -> None:
    credentials = EnvironmentCredentials(environment)
    assert credentials.retrieve().secret_key == "first"
    Path(environment["HAGD_S3_SECRET_KEY_FILE"]).write_text("second")
    assert credentials.retrieve().secret_key == "second"


def test_missing_keys_are_named(environment: dict[str, str]) -> None:
    del environment["HAGD_S3_ACCESS_KEY"]
    with pytest.raises(UnavailableError, match="HAGD_S3_ACCESS_KEY is not set"):
        EnvironmentCredentials(environment).retrieve()
