"""Log, store and executor of a service, with the named points in them. They change nothing that they pass on."""

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from benchmarks.soak.faults import Faults
from hagd.artifacts.store import ArtifactStore
from hagd.events.envelope import Envelope
from hagd.events.log import Delivery, EventLog
from hagd.events.topics import PROGRESSED
from hagd.execution.executor import Executor, Task, TaskProgress, TaskResult
from hagd.pipeline.runs import RunStore
from hagd.rpc.wiring import Wiring

_REBALANCES: Final = ("is rebalancing; rejoining", "Revoking previously assigned", "revoking")
"""What the Kafka client says when partitions are taken away from a member that lives."""


class WatchedStore:
    """A store whose process may die behind a manifest, or before or behind an outcome."""

    def __init__(self, store: ArtifactStore, faults: Faults) -> None:
        self._store, self._faults = store, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        is_outcome = key.startswith("runs/") and key.endswith("/outcome")
        if is_outcome and b'"cancelled"' in data:
            self._faults.die_at("mid-cancel", key=key)
        etag = self._store.put_if_absent(key, data)
        if key.startswith("manifests/"):
            self._faults.die_at("after-manifest", key=key)
        if is_outcome:
            self._faults.die_at("after-outcome", key=key)
        return etag


class WatchedLog:
    """A log whose process may die behind an event that somebody waits for, or before an acknowledgement."""

    def __init__(self, log: EventLog, faults: Faults) -> None:
        self._log, self._faults = log, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, topic: str, envelope: Envelope) -> bool:
        written = self._log.append(topic, envelope)
        if topic != PROGRESSED:
            self._faults.die_at("after-event", topic=topic, run=envelope.run_id)
        return written

    def ack(self, delivery: Delivery) -> bool:
        self._faults.die_at("before-ack", topic=delivery.record.topic, run=delivery.envelope.run_id)
        return self._log.ack(delivery)


class WatchedExecutor:
    """An executor that notes down every computation, and whose process may be stopped while it holds the lease."""

    def __init__(self, executor: Executor, faults: Faults, stoppable: Sequence[str]) -> None:
        """Take over an executor of one worker; only tasks of the stages `stoppable` are stopped."""
        self._executor, self._faults, self._stoppable = executor, faults, frozenset(stoppable)
        # What waits for the worker computes nothing yet.
        self._one_at_a_time = threading.Lock()

    def execute(
        self, task: Task, store: ArtifactStore, on_progress: TaskProgress, should_stop: Callable[[], bool]
    ) -> TaskResult:
        journal, name = self._faults.journal, secrets.token_hex(8)
        with self._one_at_a_time:
            journal.note("began", computation=name, stage=task.stage_id, key=task.task_key, epoch=task.epoch)
            if task.stage_id in self._stoppable:
                self._faults.stop_at("lease-takeover", key=task.task_key, epoch=task.epoch)
            try:
                result = self._executor.execute(task, store, on_progress, should_stop)
            except BaseException as error:
                journal.note("gave-up", computation=name, why=type(error).__name__)
                raise
            outputs = {role: ref.sha256 for role, ref in result.outputs.items()}
            journal.note("computed", computation=name, seconds=result.seconds, outputs=outputs)
        return result

    def close(self) -> None:
        self._executor.close()


class RebalanceWatch(logging.Handler):
    """Listens to what the Kafka client says of groups, and lets the process die while partitions change hands."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(logging.INFO)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if any(sign in said for sign in _REBALANCES) and ".retry" not in said:
            self._faults.die_at("mid-rebalance", said=said[:200])


def watched(wiring: Wiring, faults: Faults, stoppable: Sequence[str]) -> Wiring:
    """Give the same wiring over adapters with the named points in them."""
    store = cast(ArtifactStore, WatchedStore(wiring.store, faults))
    log = cast(EventLog, WatchedLog(wiring.log, faults))
    executor = WatchedExecutor(wiring.executor, faults, stoppable)
    heard = logging.getLogger("kafka.coordinator")
    heard.setLevel(logging.INFO)
    heard.addHandler(RebalanceWatch(faults))
    return replace(wiring, store=store, runs=RunStore(store), log=log, executor=executor)
