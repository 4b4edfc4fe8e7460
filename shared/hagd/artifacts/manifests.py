"""Manifests: which outputs a task key has. The first one wins, so that a key has one result for everybody.

    manifests/<2 hex>/<task key>/<generation>

A later generation appears only when outputs of the earlier one were lost or damaged and came out different when they
were computed again, which may happen under another compute fingerprint.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import rfc8785

from hagd.artifacts.reference import ArtifactRef, refs_from_json, refs_to_json
from hagd.artifacts.store import ArtifactStore
from hagd.errors import InvalidInputError


@dataclass(frozen=True)
class Manifest:
    """The result of a task."""

    task_key: str
    stage_id: str
    outputs: Mapping[str, ArtifactRef]
    compute_fingerprint: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Where it was computed (library versions, device, threads): bytes are promised equal only inside one."""
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    generation: int = 0
    verdict: str = ""
    """What the outputs say of the behaviour; empty where they say nothing."""

    def encode(self) -> bytes:
        return rfc8785.dumps(
            {
                "task_key": self.task_key,
                "stage_id": self.stage_id,
                "outputs": refs_to_json(self.outputs),
                "compute_fingerprint": dict(self.compute_fingerprint),
                "seconds": self.seconds,
                "peak_rss_bytes": self.peak_rss_bytes,
                "generation": self.generation,
                "verdict": self.verdict,
            }
        )

    @staticmethod
    def decode(data: bytes) -> "Manifest":
        """Read what `encode` wrote.

        Raises:
            InvalidInputError: the bytes are no manifest.
        """
        try:
            value: dict[str, Any] = json.loads(data)
            value["outputs"] = refs_from_json(value["outputs"])
            return Manifest(**value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"not a manifest: {error}") from error


def manifests_of(store: ArtifactStore, task_key: str) -> Iterator[Manifest]:
    """Give the readable manifests of a key, latest generation first."""
    for key in reversed(store.list(_prefix(task_key))):
        there = store.read(key)
        if there is not None and (manifest := _readable(there.data)) is not None:
            yield manifest


def read_manifest(store: ArtifactStore, task_key: str) -> Manifest | None:
    """Give the latest readable manifest of a key, or None."""
    return next(manifests_of(store, task_key), None)


def is_whole(store: ArtifactStore, manifest: Manifest) -> bool:
    """Say whether every output is there and matches its digest."""
    return all(store.check_blob(ref) for ref in manifest.outputs.values())


def find_result(store: ArtifactStore, task_key: str) -> Manifest | None:
    """Give the manifest whose outputs are all whole, the first where there are several, or None.

    Nearly always the first generation is the only one, so it is read without looking which there are.
    """
    there = store.read(f"{_prefix(task_key)}{0:04d}")
    if there is None:
        return None
    first = _readable(there.data)
    if first is not None and is_whole(store, first):
        return first
    later = [it for it in manifests_of(store, task_key) if it.generation > 0]
    return next((it for it in reversed(later) if is_whole(store, it)), None)


def publish_manifest(store: ArtifactStore, manifest: Manifest) -> Manifest:
    """Write a manifest unless a whole one is there; give the one that stands."""
    # The common case in one call: where there is any generation, there is the first.
    first = replace(manifest, generation=0)
    if store.put_if_absent(f"{_prefix(manifest.task_key)}{0:04d}", first.encode()) is not None:
        return first
    while True:
        keys = store.list(_prefix(manifest.task_key))
        current = read_manifest(store, manifest.task_key)
        if current is not None and (current.outputs == manifest.outputs or is_whole(store, current)):
            return current
        generation = int(keys[-1].rpartition("/")[2]) + 1 if keys else 0
        candidate = replace(manifest, generation=generation)
        if store.put_if_absent(f"{_prefix(manifest.task_key)}{generation:04d}", candidate.encode()) is not None:
            return candidate


def _readable(data: bytes) -> Manifest | None:
    """Read a manifest; a damaged one counts as never written, so that its task is computed again."""
    try:
        return Manifest.decode(data)
    except InvalidInputError:
        return None


def _prefix(task_key: str) -> str:
    return f"manifests/{task_key[:2]}/{task_key}/"
