"""What the folder store promises beyond the port."""

import errno
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.location import open_store
from hagd.artifacts.reference import ArtifactRef
from hagd.errors import ArtifactNotFoundError, InvalidInputError, StoreFullError, UnavailableError


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "store")


def fail_with(code: int) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_nothing_behind(
    store: FilesystemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(code))
    with pytest.raises(StoreFullError, match="no room left") as caught:
        store.put_blob(b"abc", "text/plain")
    with pytest.raises(StoreFullError):
        store.put_if_absent("a/b", b"1")
    assert "finished stages are kept" in caught.value.hint
    monkeypatch.undo()
    assert not list((tmp_path / "store" / "incoming").iterdir())
    assert not [path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file()]
    assert store.read("a/b") is None
    assert store.get_blob(store.put_blob(b"abc", "text/plain")) == b"abc"


def test_a_disk_that_fills_in_the_middle_of_a_blob_leaves_nothing_behind(tmp_path: Path) -> None:
    store = FilesystemStore(tmp_path / "store")

    def pieces() -> Iterator[bytes]:
        yield b"a" * 1000
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(StoreFullError):
        store.put_blob(pieces, "text/plain")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_failed_replacement_keeps_the_old_object(store: FilesystemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    etag = store.put_if_absent("a", b"old")
    assert etag is not None
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(StoreFullError):
        store.replace("a", b"new", etag)
    there = store.read("a")
    assert there is not None
    assert there.data == b"old"


def test_a_folder_that_cannot_be_written_is_unavailable(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(errno.EROFS))
    with pytest.raises(UnavailableError, match="cannot be written: Read-only file system"):
        store.put_blob(b"abc", "text/plain")


def test_a_large_blob_in_pieces_is_never_whole_in_memory(store: FilesystemStore) -> None:
    tracemalloc.start()
    ref = store.put_blob(lambda: (bytes(1 << 16) for _ in range(512)), "application/octet-stream")
    assert store.check_blob(ref)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ref.bytes == 1 << 25
    assert peak_bytes < 1 << 22


def test_what_a_dead_writer_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    FilesystemStore(tmp_path)
    old, young = tmp_path / "incoming" / "old", tmp_path / "incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    FilesystemStore(tmp_path)
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("key", ["../a", "a/../b", "/a", "a//b", "A", "a b", "a/.b", "a..b"])
def test_keys_that_could_leave_the_folder_are_refused(store: FilesystemStore, key: str) -> None:
    with pytest.raises(InvalidInputError, match="is no key of a store"):
        store.put_if_absent(key, b"1")
    with pytest.raises(InvalidInputError):
        store.read(key)


def test_the_store_opens_at_its_location(store: FilesystemStore) -> None:
    ref = store.put_blob(b"abc", "text/plain")
    assert open_store(store.location).get_blob(ref) == b"abc"
    with pytest.raises(InvalidInputError, match="no store can be opened at 'ftp:x'"):
        open_store("ftp:x")


def test_opening_to_read_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match="there is no artifact store"):
        FilesystemStore(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("digest", ["", "A" * 64, "0" * 63, "../" + "0" * 61, 5])
def test_a_reference_is_checked_before_it_becomes_a_path(digest: object) -> None:
    with pytest.raises(InvalidInputError, match="64 lower-case hex digits"):
        ArtifactRef.from_json({"sha256": digest, "bytes": 3, "media_type": "x/y"})


def test_a_reference_survives_json() -> None:
    ref = ArtifactRef("ab" * 32, 3, "x/y")
    assert ArtifactRef.from_json(ref.to_json()) == ref
    with pytest.raises(InvalidInputError, match="lacks a size or a media type"):
        ArtifactRef.from_json({"sha256": ref.sha256, "bytes": -1, "media_type": "x/y"})
