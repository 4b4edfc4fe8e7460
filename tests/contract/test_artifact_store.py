"""What every artifact store promises."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.store import ArtifactStore
from hagd.errors import ArtifactNotFoundError, CorruptArtifactError
from hagd.testing import MemoryStore
from real_servers import s3_param
from s3_stores import new_s3_store, overwrite

# versitygw looks at a condition and writes in two steps, so several racers may win: it can serve one worker alone.
FIT_FOR_RACES = ["memory", "filesystem", "moto", s3_param("minio")]
KINDS = [*FIT_FOR_RACES, s3_param("versitygw")]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    match request.param:
        case "memory":
            return MemoryStore()
        case "filesystem":
            return FilesystemStore(tmp_path / "store")
        case kind:
            return new_s3_store(request.getfixturevalue(kind))


def damage(store: ArtifactStore, ref: ArtifactRef, data: bytes) -> None:
    match store:
        case MemoryStore():
            store.blobs[ref.sha256] = data
        case S3Store():
            overwrite(store, ref, data)
        case _:
            next(Path(store.location.removeprefix("file:")).glob(f"blobs/*/{ref.sha256[2:]}")).write_bytes(data)


def test_a_blob_comes_back_as_it_was_put(store: ArtifactStore) -> None:
    ref = store.put_blob(b"abc", "text/plain")
    assert store.get_blob(ref) == b"abc"
    assert ref.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (ref.bytes, ref.media_type) == (3, "text/plain")
    assert store.has_blob(ref)
    assert store.check_blob(ref)


def test_a_blob_given_in_pieces_is_the_blob_given_whole(store: ArtifactStore) -> None:
    assert store.put_blob(lambda: (bytes([value]) for value in range(13)), "x/y") == store.put_blob(
        bytes(range(13)), "x/y"
    )


def test_a_blob_is_streamed_as_it_was_put(store: ArtifactStore) -> None:
    data = bytes(range(251)) * 13007
    ref = store.put_blob(data, "application/octet-stream")
    assert b"".join(store.stream_blob(ref)) == data


def test_an_empty_blob_is_a_blob(store: ArtifactStore) -> None:
    ref = store.put_blob(b"", "text/plain")
    assert store.has_blob(ref)
    assert store.get_blob(ref) == b""


def test_an_absent_blob_is_an_error_that_says_what_to_do(store: ArtifactStore) -> None:
    ref = ArtifactRef("0" * 64, 3, "text/plain")
    assert not store.has_blob(ref)
    assert not store.check_blob(ref)
    with pytest.raises(ArtifactNotFoundError, match="000000000000 is not in the store") as caught:
        store.get_blob(ref)
    with pytest.raises(ArtifactNotFoundError):
        list(store.stream_blob(ref))
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"abd", b"ab", b"abcd", b""])
def test_a_damaged_blob_is_never_given_out_and_putting_it_again_heals_it(store: ArtifactStore, data: bytes) -> None:
    ref = store.put_blob(b"abc", "text/plain")
    damage(store, ref, data)
    assert not store.check_blob(ref)
    with pytest.raises(CorruptArtifactError, match="does not match its digest"):
        store.get_blob(ref)
    with pytest.raises(CorruptArtifactError):
        list(store.stream_blob(ref))
    assert store.put_blob(b"abc", "text/plain") == ref
    assert store.get_blob(ref) == b"abc"


def test_a_reference_with_the_wrong_size_is_refused(store: ArtifactStore) -> None:
    ref = store.put_blob(b"abc", "text/plain")
    with pytest.raises(CorruptArtifactError):
        store.get_blob(replace(ref, bytes=4))


def test_a_deleted_blob_is_gone_and_deleting_twice_is_quiet(store: ArtifactStore) -> None:
    ref = store.put_blob(b"abc", "text/plain")
    store.delete_blob(ref)
    store.delete_blob(ref)
    assert not store.has_blob(ref)


def test_listing_blobs_gives_every_digest_with_its_size_and_no_objects(store: ArtifactStore) -> None:
    store.put_if_absent("a/object", b"x")
    refs = [store.put_blob(data, "text/plain") for data in (b"", b"abc", b"defgh")]
    assert sorted(store.list_blobs()) == sorted((ref.sha256, ref.bytes) for ref in refs)
    store.delete_blob(refs[1])
    assert len(list(store.list_blobs())) == 2


def test_a_blob_that_is_put_again_is_young_again(store: ArtifactStore) -> None:
    clock = store.clock if isinstance(store, MemoryStore) else SystemClock()
    ref = store.put_blob(b"abc", "text/plain")
    first = store.blob_put_at(ref)
    assert first is not None
    # Some servers tell whole seconds.
    assert -2 < clock.now() - first < 60
    clock.sleep(1.1)
    store.put_blob(b"abc", "text/plain")
    again = store.blob_put_at(ref)
    assert again is not None
    assert again > first
    store.delete_blob(ref)
    assert store.blob_put_at(ref) is None


def test_the_first_writer_of_an_object_wins(store: ArtifactStore) -> None:
    assert store.put_if_absent("a/b", b"first")
    assert store.put_if_absent("a/b", b"second") is None
    there = store.read("a/b")
    assert there is not None
    assert there.data == b"first"


def test_replacing_needs_the_etag_of_what_is_there(store: ArtifactStore) -> None:
    first = store.put_if_absent("a", b"1")
    assert first is not None
    second = store.replace("a", b"2", first)
    assert second is not None
    assert store.replace("a", b"3", first) is None
    there = store.read("a")
    assert there is not None
    assert (there.data, there.etag) == (b"2", second)


def test_what_is_absent_cannot_be_replaced(store: ArtifactStore) -> None:
    assert store.replace("a", b"1", "x") is None
    assert store.read("a") is None


def test_a_deleted_object_may_be_put_again(store: ArtifactStore) -> None:
    store.put_if_absent("a", b"1")
    store.delete("a")
    store.delete("a")
    assert store.put_if_absent("a", b"2")


def test_listing_gives_sorted_keys_by_prefix_even_in_the_middle_of_a_name(store: ArtifactStore) -> None:
    for key in ("runs/b/x", "runs/a/x", "runs/ab", "other"):
        store.put_if_absent(key, b"1")
    assert store.list("runs/a") == ["runs/a/x", "runs/ab"]
    assert store.list("") == ["other", "runs/a/x", "runs/ab", "runs/b/x"]
    assert store.list("none/") == []


def test_folders_are_listed_in_order_from_any_of_them_on(store: ArtifactStore) -> None:
    for key in ("runs/b/x", "runs/a-b/y", "runs/a/z/deep", "runs/a/x", "runs/file", "runsaway/q", "runs/c/x"):
        store.put_if_absent(key, b"x")
    # As their keys: a minus comes before a slash.
    assert store.folders("runs") == ("a-b", "a", "b", "c")
    assert store.folders("runs", limit=2) == ("a-b", "a")
    assert store.folders("runs", after="a-b", limit=2) == ("a", "b")
    assert store.folders("runs", after="aa") == ("b", "c")
    assert store.folders("runs", after="c") == ()
    assert store.folders("none") == ()


@pytest.mark.parametrize("store", FIT_FOR_RACES, indirect=True)
def test_of_many_threads_that_put_the_same_key_exactly_one_wins(store: ArtifactStore) -> None:
    etags: list[str | None] = []
    threads = [
        threading.Thread(target=lambda n=n: etags.append(store.put_if_absent("k", b"%d" % n))) for n in range(11)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(etags) == 11
    assert sum(etag is not None for etag in etags) == 1


@pytest.mark.parametrize("store", FIT_FOR_RACES, indirect=True)
def test_no_increment_by_compare_and_swap_is_lost(store: ArtifactStore) -> None:
    store.put_if_absent("count", b"0")

    def add() -> None:
        for _ in range(7):
            while (there := store.read("count")) and not store.replace(
                "count", b"%d" % (int(there.data) + 1), there.etag
            ):
                pass

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = store.read("count")
    assert there is not None
    assert there.data == b"21"
