"""Sees checkpoints come into the store, from outside: of which task, by which attempt, at which step, and when.

What an attempt computed before its last checkpoint is not in vain when a later one goes on from there.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from benchmarks.soak.cluster import BUCKET
from benchmarks.soak.journal import Journal

_PREFIX: Final = "objects/checkpoints/"
_LOOK_SECONDS: Final = 1.0
"""A checkpoint is dropped with the next one, seconds later."""


class CheckpointWatch:
    """A thread that notes every checkpoint once."""

    def __init__(self, bucket: Minio, journal: Journal) -> None:
        self._bucket, self._journal = bucket, journal
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="checkpoints", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        self._thread.join()

    def _watch(self) -> None:
        known: set[str] = set()
        while not self._closing.wait(_LOOK_SECONDS):
            # The store may be away for a moment.
            with suppress(MinioException, HTTPError, OSError):
                for name, saved in self._there():
                    if name not in known:
                        known.add(name)
                        key, epoch, step = name.removeprefix(_PREFIX).split("/")[1:]
                        self._journal.note("checkpoint", key=key, epoch=int(epoch), step=int(step), saved=saved)

    def _there(self) -> Iterator[tuple[str, float]]:
        for found in self._bucket.list_objects(BUCKET, _PREFIX, recursive=True):
            if found.object_name and found.last_modified:
                yield found.object_name, found.last_modified.timestamp()
