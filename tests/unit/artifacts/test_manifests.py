"""Manifests: the first one wins, and damage opens a new generation only when the bytes come out different."""

from dataclasses import replace

import pytest

from hagd.artifacts.manifests import Manifest, find_result, is_whole, publish_manifest, read_manifest
from hagd.errors import InvalidInputError
from hagd.testing import MemoryStore

KEY = "ab" * 32


def manifest(store: MemoryStore, data: bytes) -> Manifest:
    return Manifest(KEY, "toy", {"out": store.put_blob(data, "text/plain")}, {"threads": 2}, 1.5, 4096)


def test_a_manifest_comes_back_as_it_was_published() -> None:
    store = MemoryStore()
    assert read_manifest(store, KEY) is None
    published = publish_manifest(store, manifest(store, b"a"))
    assert published == manifest(store, b"a")
    assert read_manifest(store, KEY) == published


def test_the_first_manifest_wins_and_the_loser_is_told() -> None:
    store = MemoryStore()
    first = publish_manifest(store, manifest(store, b"a"))
    assert publish_manifest(store, manifest(store, b"b")) == first
    assert read_manifest(store, KEY) == first


def test_a_lost_output_that_comes_out_the_same_keeps_its_generation() -> None:
    store = MemoryStore()
    first = publish_manifest(store, manifest(store, b"a"))
    store.blobs.clear()
    assert not is_whole(store, first)
    assert publish_manifest(store, manifest(store, b"a")) == first
    assert is_whole(store, first)


def test_a_damaged_output_that_comes_out_different_opens_the_next_generation() -> None:
    store = MemoryStore()
    first = publish_manifest(store, manifest(store, b"a"))
    store.blobs[first.outputs["out"].sha256] = b"x"
    second = publish_manifest(store, manifest(store, b"b"))
    assert second == replace(manifest(store, b"b"), generation=1)
    assert read_manifest(store, KEY) == second


def test_the_result_of_a_key_is_its_first_whole_manifest() -> None:
    store = MemoryStore()
    assert find_result(store, KEY) is None
    first = publish_manifest(store, manifest(store, b"a"))
    assert find_result(store, KEY) == first
    store.blobs[first.outputs["out"].sha256] = b"x"
    assert find_result(store, KEY) is None
    second = publish_manifest(store, manifest(store, b"b"))
    assert find_result(store, KEY) == second
    store.put_blob(b"a", "text/plain")
    assert find_result(store, KEY) == first


def test_a_damaged_manifest_counts_as_none_and_does_not_block_the_next() -> None:
    store = MemoryStore()
    publish_manifest(store, manifest(store, b"a"))
    for key in store.objects:
        store.objects[key] = b"{"
    assert read_manifest(store, KEY) is None
    assert publish_manifest(store, manifest(store, b"b")).generation == 1
    with pytest.raises(InvalidInputError, match="not a manifest"):
        Manifest.decode(b"[]")
