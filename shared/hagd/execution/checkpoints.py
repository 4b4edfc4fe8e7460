"""Checkpoints of long tasks, so that a killed attempt costs minutes instead of the task.

    checkpoints/<2 hex>/<task key>/<lease epoch>/<step>   names a blob

Only the latest is kept. The blob holds the task key, so it never equals an artifact and may be deleted.
"""

import json
from collections.abc import Iterator

import rfc8785

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore, get_document, put_document
from hagd.errors import ArtifactError, InvalidInputError


def save_checkpoint(store: ArtifactStore, task_key: str, epoch: int, step: int, state: Document) -> None:
    """Keep `state`, then drop the earlier ones."""
    earlier = store.list(_prefix(task_key))
    wrapped = Document(
        {"checkpoint": {"task_key": task_key, "step": step}, "state": dict(state.content)}, state.tensors
    )
    ref = put_document(store, wrapped)
    key = f"{_prefix(task_key)}{epoch:06d}/{step:012d}"
    if store.put_if_absent(key, rfc8785.dumps(ref.to_json())) is None:
        return
    for old in earlier:
        _drop(store, old, keep=ref)


def load_checkpoint(store: ArtifactStore, task_key: str) -> tuple[int, Document] | None:
    """Give the step and state of the latest whole checkpoint, or None."""
    for key in reversed(store.list(_prefix(task_key))):
        ref = _target(store, key)
        try:
            document = get_document(store, ref) if ref else None
        except ArtifactError:
            # Damaged: an earlier one, or a fresh start, gives the same result.
            continue
        if document is not None:
            step = int(key.rpartition("/")[2])
            return step, Document(document.content["state"], document.tensors)
    return None


def clear_checkpoints(store: ArtifactStore, task_key: str) -> None:
    """Drop all checkpoints of a task that has a result."""
    for key in store.list(_prefix(task_key)):
        _drop(store, key)


def checkpoint_blobs(store: ArtifactStore, task_key: str) -> Iterator[ArtifactRef]:
    """Give the blobs that the checkpoints of a task name."""
    for key in store.list(_prefix(task_key)):
        ref = _target(store, key)
        if ref is not None:
            yield ref


def _drop(store: ArtifactStore, key: str, keep: ArtifactRef | None = None) -> None:
    ref = _target(store, key)
    store.delete(key)
    if ref is not None and ref != keep:
        store.delete_blob(ref)


def _target(store: ArtifactStore, key: str) -> ArtifactRef | None:
    there = store.read(key)
    if there is None:
        return None
    try:
        return ArtifactRef.from_json(json.loads(there.data))
    except (ValueError, AttributeError, InvalidInputError):
        return None


def _prefix(task_key: str) -> str:
    return f"checkpoints/{task_key[:2]}/{task_key}/"
