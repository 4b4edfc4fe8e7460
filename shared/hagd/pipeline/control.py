"""Stages that a person has told to rest: a mark in the store, which every replica of the stage looks at."""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import rfc8785

from hagd.artifacts.clock import Clock
from hagd.artifacts.leases import LeaseTable, Owner, has_ended
from hagd.artifacts.store import ArtifactStore
from hagd.pipeline.at_work import tasks_at_work
from hagd.pipeline.runs import RunStore

LOOK_SECONDS: Final = 1.0
"""How often a replica looks at the mark."""
_QUIET_LOOKS: Final = 3
"""A request that was claimed before the mark was seen is at work by then."""


@dataclass(frozen=True)
class StageControl:
    """Marks of the stages that take no new work. What has begun goes on."""

    store: ArtifactStore

    def pause(self, stage_id: str, reason: str = "") -> None:
        """Let a stage take no more work; quiet when it takes none already."""
        self.store.put_if_absent(_key(stage_id), rfc8785.dumps({"reason": reason}))

    def resume(self, stage_id: str) -> None:
        """Let a stage take work again."""
        self.store.delete(_key(stage_id))

    def is_paused(self, stage_id: str) -> bool:
        """Say whether a stage is to take no work."""
        return self.store.read(_key(stage_id)) is not None

    def paused(self) -> dict[str, str]:
        """Give the stages that take no work, each with the reason that was given."""
        found: dict[str, str] = {}
        for key in self.store.list("control/"):
            there = self.store.read(key)
            if there is not None:
                found[key.split("/")[1]] = str(json.loads(there.data).get("reason", ""))
        return found


@dataclass
class RestWatch:
    """Looks at the mark of one stage for all its loops in a process, once in `LOOK_SECONDS`."""

    control: StageControl
    stage_id: str
    clock: Clock
    _paused: bool = field(default=False, init=False)
    _looked_at: float = field(default=-math.inf, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def is_paused(self) -> bool:
        """Say whether the stage is to take no work, as of a moment ago.

        Raises:
            StoreFullError, UnavailableError: the store.
        """
        with self._lock:
            now = self.clock.monotonic()
            if now - self._looked_at >= LOOK_SECONDS:
                self._paused, self._looked_at = self.control.is_paused(self.stage_id), now
            return self._paused


@dataclass(frozen=True)
class Drain:
    """Pausing a stage, and waiting until its tasks at work are done."""

    control: StageControl
    runs: RunStore
    leases: LeaseTable
    """Only read, so it may belong to nobody."""
    clock: Clock
    ended: Callable[[Owner], bool] = has_ended

    def at_work(self, stage_id: str) -> list[str]:
        """Give the keys of the tasks of a stage that somebody computes, as far as can be known from here."""
        found: set[str] = set()
        for run_id in self.runs.active.all():
            if self.runs.exists(run_id):
                state = self.runs.get(run_id)
                found |= {*tasks_at_work(state, self.runs, self.leases, self.ended, stage_id)}
        return sorted(found)

    def run(self, stage_id: str, patience: timedelta, report: Callable[[int], None]) -> list[str]:
        """Pause a stage and wait; give the tasks that were at work still when patience ended.

        Args:
            stage_id: the stage.
            patience: how long to wait.
            report: is told how many tasks are at work, at every look.
        """
        self.control.pause(stage_id)
        deadline, quiet = self.clock.monotonic() + patience.total_seconds(), 0
        while True:
            left = self.at_work(stage_id)
            report(len(left))
            quiet = 0 if left else quiet + 1
            if quiet >= _QUIET_LOOKS or self.clock.monotonic() >= deadline:
                return left
            self.clock.sleep(LOOK_SECONDS)


def _key(stage_id: str) -> str:
    return f"control/{stage_id}/paused"
