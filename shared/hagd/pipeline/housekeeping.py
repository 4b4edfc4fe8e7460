"""What a store holds and for whom, and the collection of what nobody needs any more.

Needed is what a run names (inputs of its request, outputs of its stages) and what a task at work may have written.
Manifests of other tasks go first, so that nothing new comes to rely on their blobs; the collector holds the lease of a
task while it forgets it, so that none begins meanwhile. A blob that nothing needs is noted down, and removed by a later
collection only if it was not needed then either and its time of grace has passed: what a run took up in between is
safe. So is a blob that was put once more within that time, because its task may not have named it yet. Notes are one
object, replaced by compare-and-swap, so of two collectors at once one gives up.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import rfc8785

from hagd.artifacts.clock import Clock
from hagd.artifacts.leases import NOBODY, LeaseTable
from hagd.artifacts.manifests import manifests_of
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore
from hagd.errors import RunConflictError, RunError
from hagd.execution.checkpoints import checkpoint_blobs, clear_checkpoints
from hagd.pipeline.runs import RunStore

GRACE_SECONDS: Final = 24 * 3600.0
_NOTES: Final = "gc/unneeded"


@dataclass(frozen=True)
class Usage:
    """Bytes of a store."""

    blobs: int
    bytes: int
    needed_bytes: int
    by_run: dict[str, int]
    """Bytes that each run names; what several runs share counts for each."""


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or would remove."""

    manifests: int
    blobs: int
    bytes: int
    waiting_blobs: int
    """Not needed, but still in their time of grace."""
    waiting_bytes: int


def usage(store: ArtifactStore, runs: RunStore) -> Usage:
    """Add up what the blobs of a store take."""
    sizes = dict(store.list_blobs())
    by_run = {run_id: set(_named_by(runs, run_id)) for run_id in runs.list()}
    needed = set[str]().union(*by_run.values())
    return Usage(
        len(sizes),
        sum(sizes.values()),
        sum(sizes.get(digest, 0) for digest in needed),
        {run_id: sum(sizes.get(digest, 0) for digest in named) for run_id, named in by_run.items()},
    )


def delete_run(runs: RunStore, run_id: str) -> None:
    """Forget a run; what only it needed goes with the next collections, which also finish an interrupted deletion.

    Raises:
        UnknownNameError: there is no such run.
        RunError: it has not ended.
    """
    runs.request(run_id)
    if runs.outcome(run_id) is None:
        raise RunError(f"run {run_id[:12]} has not ended", "cancel it first: `hagd run cancel`")
    runs.delete(run_id)


def collect(
    store: ArtifactStore,
    runs: RunStore,
    clock: Clock,
    *,
    grace_seconds: float = GRACE_SECONDS,
    dry_run: bool = False,
) -> Collected:
    """Remove what no run of `runs` and no task at work needs; `runs` must hold all runs that share the store.

    Raises:
        RunConflictError: another collection is at work.
    """
    # First what is there: a task that begins after this look is no candidate, and one that began before it is needed.
    candidates = _tasks_in(store)
    leases = LeaseTable(store, clock)
    needed_tasks = set(_task_keys(runs)) | set(_leased(store, leases))
    dropped = [key for key in candidates if key not in needed_tasks]
    if not dry_run:
        for run_id in runs.remnants():
            runs.delete(run_id)
        dropped = [key for key in dropped if _forget(store, key, leases)]
    needed = set(_needed_blobs(store, runs, needed_tasks))
    sizes = {digest: size for digest, size in store.list_blobs() if digest not in needed}
    there = store.read(_NOTES)
    noted: dict[str, float] = json.loads(there.data) if there else {}
    now = clock.now()
    notes = {digest: noted.get(digest, now) for digest in sizes}
    expired = {digest for digest, since in notes.items() if digest in noted and now - since >= grace_seconds}
    if not dry_run:
        _write_notes(store, {d: since for d, since in notes.items() if d not in expired}, there.etag if there else None)
    gone = 0, 0
    for ref in (ArtifactRef(digest, sizes[digest], "application/octet-stream") for digest in sorted(expired)):
        # At the last moment: a task may have put it since the look at what is needed.
        put_at = store.blob_put_at(ref)
        if put_at is None or now - put_at < grace_seconds:
            continue
        if not dry_run:
            store.delete_blob(ref)
        gone = gone[0] + 1, gone[1] + ref.bytes
    return Collected(len(dropped), *gone, len(sizes) - gone[0], sum(sizes.values()) - gone[1])


def _named_by(runs: RunStore, run_id: str) -> Iterator[str]:
    """Give the digests that a run names, over all its generations."""
    yield from (ref.sha256 for ref in runs.request(run_id).inputs.values())
    for generation in range(runs.generation(run_id) + 1):
        for stage in runs.stages(run_id, generation):
            yield from (ref.sha256 for ref in stage.outputs.values())


def _task_keys(runs: RunStore) -> Iterator[str]:
    for run_id in runs.list():
        for generation in range(runs.generation(run_id) + 1):
            for index, stage in enumerate(runs.stages(run_id, generation)):
                if stage.task_key:
                    yield stage.task_key
                if stage.status == "running":
                    yield from runs.shards(run_id, generation, index, stage.stage_id)


def _leased(store: ArtifactStore, leases: LeaseTable) -> Iterator[str]:
    for key in _last_parts(store.list("leases/")):
        lease = leases.read(key)
        # Of a collector that died at it, for one, the task may be forgotten.
        if lease is not None and lease.owner != NOBODY and not leases.ended(lease.owner):
            yield key


def _tasks_in(store: ArtifactStore) -> list[str]:
    """Give the keys of all tasks that left anything in the store."""
    manifests = {key.split("/")[2] for key in store.list("manifests/")}
    checkpoints = {key.split("/")[2] for key in store.list("checkpoints/")}
    return sorted(manifests | checkpoints | set(_last_parts(store.list("leases/"))))


def _forget(store: ArtifactStore, task_key: str, leases: LeaseTable) -> bool:
    """Remove what a task left behind; False when somebody has begun with it."""
    if leases.acquire(task_key) is None:
        return False
    clear_checkpoints(store, task_key)
    # The first generation last: as long as any is there, it is, and nobody takes its place.
    for key in reversed(store.list(f"manifests/{task_key[:2]}/{task_key}/")):
        store.delete(key)
    store.delete(f"leases/{task_key[:2]}/{task_key}")
    return True


def _needed_blobs(store: ArtifactStore, runs: RunStore, task_keys: Iterable[str]) -> Iterator[str]:
    for run_id in runs.list():
        yield from _named_by(runs, run_id)
    for task_key in task_keys:
        for manifest in manifests_of(store, task_key):
            yield from (ref.sha256 for ref in manifest.outputs.values())
        yield from (ref.sha256 for ref in checkpoint_blobs(store, task_key))


def _write_notes(store: ArtifactStore, notes: dict[str, float], etag: str | None) -> None:
    data = rfc8785.dumps(notes)
    written = store.put_if_absent(_NOTES, data) if etag is None else store.replace(_NOTES, data, etag)
    if written is None:
        raise RunConflictError("another collection is at work in this store", "wait for it, then collect again")


def _last_parts(keys: Iterable[str]) -> list[str]:
    return [key.rpartition("/")[2] for key in keys]
