"""Leases: at most one computation per task key at a time, without a clock that machines agree on.

A holder changes its lease every few seconds by compare-and-swap. An observer takes a lease over once it has seen it
unchanged for a whole time-to-live on its own monotonic clock, so two machines never compare times. A holder on the
same machine whose process has ended is not waited for.
"""

import json
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import psutil
import rfc8785

from hagd.artifacts.clock import Clock
from hagd.artifacts.store import ArtifactStore

TIME_TO_LIVE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Owner:
    """Who holds a lease."""

    name: str
    """Unique; empty when nobody holds it."""
    host: str = ""
    """Equal only where process ids mean the same."""
    pid: int = 0
    started: float = 0.0
    """Start of the process in seconds since the epoch: tells apart two processes that had the same id."""


NOBODY: Final = Owner("")


def this_process() -> Owner:
    """Give a fresh owner that names this process."""
    namespace = Path("/proc/self/ns/pid")
    host = f"{socket.gethostname()}/{namespace.readlink() if namespace.exists() else ''}"
    pid = os.getpid()
    return Owner(secrets.token_hex(16), host, pid, psutil.Process(pid).create_time())


def has_ended(owner: Owner) -> bool:
    """Say whether the owner is known to have ended; False when it cannot be known from here."""
    if owner.host != this_process().host:
        return False
    try:
        return abs(psutil.Process(owner.pid).create_time() - owner.started) > 1.0
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True)
class Lease:
    """The right to compute a task."""

    task_key: str
    owner: Owner
    epoch: int
    """Grows with every holder."""
    attempts: int
    """How many holders vanished or lost their worker without an explanation."""
    beat: int
    """Grows with every renewal, so that no two states of a lease are equal."""
    etag: str = field(default="", compare=False)

    @property
    def is_first(self) -> bool:
        """Say whether nobody held it before: then nobody can have left a result or a checkpoint of the task either."""
        return self.epoch == 1


@dataclass
class LeaseTable:
    """The leases of a store as one owner sees them. Not for use by several threads."""

    store: ArtifactStore
    clock: Clock
    owner: Owner = field(default_factory=this_process)
    time_to_live_seconds: float = TIME_TO_LIVE_SECONDS
    ended: Callable[[Owner], bool] = has_ended
    on_takeover: Callable[[], object] = lambda: None
    """Called when a lease was taken from a holder that vanished."""
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]], init=False)

    def acquire(self, task_key: str) -> Lease | None:
        """Take the lease of a task; None while somebody else holds it."""
        # Most tasks are asked for once, so the first holder is found out by one call.
        first = self._settle(Lease(task_key, self.owner, epoch=1, attempts=0, beat=0), "")
        current = None if first is not None else self.read(task_key)
        if current is None:
            return first
        vanished = 0
        if current.owner != NOBODY and not self.ended(current.owner):
            if not self._has_expired(current):
                return None
            vanished = 1
        following = Lease(task_key, self.owner, current.epoch + 1, current.attempts + vanished, current.beat + 1)
        taken = self._settle(following, current.etag)
        if taken is not None and vanished:
            self.on_takeover()
        return taken

    def renew(self, lease: Lease) -> Lease | None:
        """Show that the holder lives; None when the lease was taken over."""
        return self._settle(replace(lease, beat=lease.beat + 1), lease.etag)

    def release(self, lease: Lease, *, worker_died: bool = False) -> bool:
        """Give the lease back and count an unexplained death; False when it was taken over."""
        attempts = lease.attempts + 1 if worker_died else lease.attempts
        free = replace(lease, owner=NOBODY, attempts=attempts, beat=lease.beat + 1)
        return self._settle(free, lease.etag) is not None

    def forgive(self, lease: Lease) -> bool:
        """Give the lease back and forget the deaths; False when it was taken over."""
        return self.release(replace(lease, attempts=0))

    def read(self, task_key: str) -> Lease | None:
        """Give the lease as it stands, or None when the task was never started; a damaged one is nobody's."""
        there = self.store.read(_key(task_key))
        if there is None:
            return None
        try:
            value: dict[str, Any] = json.loads(there.data)
            value |= {"owner": Owner(**value["owner"]), "etag": there.etag}
            return Lease(**value)
        except (ValueError, KeyError, TypeError):
            # Somebody held it, so the next holder is not the first.
            return Lease(task_key, NOBODY, epoch=1, attempts=0, beat=0, etag=there.etag)

    def _has_expired(self, lease: Lease) -> bool:
        now = self.clock.monotonic()
        etag, since = self._seen.get(lease.task_key, ("", now))
        if etag != lease.etag:
            self._seen[lease.task_key] = (lease.etag, now)
            return False
        return now - since >= self.time_to_live_seconds

    def _settle(self, lease: Lease, etag: str) -> Lease | None:
        content = {name: value for name, value in asdict(lease).items() if name != "etag"}
        data, key = rfc8785.dumps(content), _key(lease.task_key)
        written = self.store.replace(key, data, etag) if etag else self.store.put_if_absent(key, data)
        return replace(lease, etag=written) if written is not None else None


def _key(task_key: str) -> str:
    return f"leases/{task_key[:2]}/{task_key}"
