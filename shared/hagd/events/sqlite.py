"""The event log in one SQLite file: durable across kill -9, for the processes of one machine.

One thread owns the connection and works through a queue, several calls to a transaction when they come together.
Every transaction is `BEGIN IMMEDIATE` in WAL mode with full synchronous, so what was answered survives a power cut,
and two processes never claim one event. Progress and finished work go after a day, when the file is opened and once an
hour; SQLite then writes into the room that they leave. Not for network file systems.
"""

import contextlib
import math
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from hagd.artifacts.clock import Clock, SystemClock
from hagd.errors import CorruptArtifactError, HagdError, StoreFullError, UnavailableError
from hagd.events.envelope import Envelope
from hagd.events.log import START, Delivery, Position, Record, UnreadableRecord
from hagd.events.topics import PASSING_SECONDS, PROGRESSED, is_work_topic

T = TypeVar("T")
_Call = tuple[Callable[[sqlite3.Connection], Any], Future[Any]]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    claim TEXT NOT NULL DEFAULT '',
    free_at REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    at REAL NOT NULL,
    UNIQUE (topic, id)
);
CREATE INDEX IF NOT EXISTS open_events ON events (topic, free_at) WHERE done = 0;
"""
_CLAIM: Final = """
UPDATE events SET claim = ?, free_at = ?, attempts = attempts + 1
WHERE position = (
    SELECT position FROM events WHERE done = 0 AND topic = ? AND free_at <= ? ORDER BY position LIMIT 1)
RETURNING position, topic, body, at, attempts, failures
"""
_TRIM: Final = "DELETE FROM events WHERE topic = ? AND at < ? AND (done = 1 OR ?)"
_TRIM_SECONDS: Final = 3600.0
_BATCH: Final = 64
_BUSY_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 0.02
_PRIMARY_CODE: Final = 0xFF
"""The part of an extended error code of SQLite that says what kind it is."""


class SqliteEventLog:
    """An `EventLog` in a file."""

    def __init__(self, path: Path, *, clock: Clock | None = None, release_claims: bool = False) -> None:
        """Open the file, or make it.

        `release_claims` frees what a dead process had claimed; only for who holds the sole right to the file.

        Raises:
            CorruptArtifactError: the file is no event log.
            StoreFullError, UnavailableError: it cannot be opened.
        """
        self._path, self._clock = path, clock or SystemClock()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._gate, self._closed, self._trimmed_at = threading.Lock(), False, -math.inf
        self._thread = threading.Thread(target=self._work, name="event-log", daemon=True)
        self._thread.start()
        try:
            self._do(lambda db: db.execute("SELECT count(*) FROM events WHERE done = 0").fetchone())
            if release_claims:
                self._do(lambda db: db.execute("UPDATE events SET claim = '', free_at = 0 WHERE done = 0"))
        except HagdError:
            self.close()
            raise

    def append(self, topic: str, envelope: Envelope) -> bool:
        row = (topic, envelope.id, envelope.encode(), self._clock.now())
        statement = "INSERT INTO events (topic, id, body, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        return self._do(lambda db: db.execute(statement, row).rowcount > 0)

    def claim(self, topics: Sequence[str], seconds: float) -> Delivery | None:
        now, claim = self._clock.now(), secrets.token_hex(16)

        def take(db: sqlite3.Connection) -> tuple[int, str, bytes, float, int, int] | None:
            for topic in topics:
                row = db.execute(_CLAIM, (claim, now + seconds, topic, now)).fetchone()
                if row is not None:
                    return row
            return None

        row = self._do(take)
        return Delivery(_record(*row[:4]), claim, *row[4:]) if row else None

    def ack(self, delivery: Delivery) -> bool:
        return self._change("UPDATE events SET done = 1, claim = ''", (), delivery)

    def release(self, delivery: Delivery, delay_seconds: float = 0.0, *, failed: bool = False) -> bool:
        values = (self._clock.now() + delay_seconds, failed)
        return self._change("UPDATE events SET claim = '', free_at = ?, failures = failures + ?", values, delivery)

    def extend(self, delivery: Delivery, seconds: float) -> bool:
        return self._change("UPDATE events SET free_at = ?", (self._clock.now() + seconds,), delivery)

    def read(self, topic: str, position: Position = START, limit: int = 1000) -> list[Record]:
        statement = "SELECT position, topic, body, at FROM events WHERE topic = ? AND position >= ? ORDER BY 1 LIMIT ?"
        rows = self._do(lambda db: db.execute(statement, (topic, position.get(0, 0), limit)).fetchall())
        return [_record(*row) for row in rows]

    def waiting(self, topics: Sequence[str], limit: int = 1000) -> list[Record]:
        marks = ", ".join("?" * len(topics))
        statement = f"""
            SELECT position, topic, body, at FROM events
            WHERE done = 0 AND topic IN ({marks}) ORDER BY 1 LIMIT ?
        """  # noqa: S608 - question marks are put in
        rows = self._do(lambda db: db.execute(statement, (*topics, limit)).fetchall())
        return [_record(*row) for row in rows]

    def unreadable(self, topic: str, limit: int = 1000) -> list[UnreadableRecord]:  # noqa: ARG002
        return []

    def close(self) -> None:
        with self._gate:
            if not self._closed:
                self._closed = True
                self._calls.put(None)
        self._thread.join()

    def _change(self, update: str, values: tuple[float, ...], delivery: Delivery) -> bool:
        statement = f"{update} WHERE position = ? AND claim = ? AND done = 0"
        row = (*values, delivery.record.offset, delivery.claim)
        return self._do(lambda db: db.execute(statement, row).rowcount > 0)

    def _do(self, call: Callable[[sqlite3.Connection], T]) -> T:
        future: Future[T] = Future()
        with self._gate:
            if self._closed:
                raise UnavailableError(f"the event log {self._path} is closed", "open it again")
            self._calls.put((call, future))
        try:
            return future.result()
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _work(self) -> None:
        try:
            connection = _connect(self._path)
        except sqlite3.Error as error:
            while (call := self._calls.get()) is not None:
                call[1].set_exception(error)
            return
        while calls := self._next_calls():
            _run_together(connection, calls)
            # Behind the answers, so that nobody waits for it.
            self._trim(connection)
        connection.close()

    def _trim(self, connection: sqlite3.Connection) -> None:
        now = self._clock.now()
        if now - self._trimmed_at < _TRIM_SECONDS:
            return
        self._trimmed_at = now
        # There is time: what cannot be deleted now can be in an hour.
        with contextlib.suppress(sqlite3.Error):
            topics = [str(topic) for (topic,) in connection.execute("SELECT DISTINCT topic FROM events")]
            for topic in topics:
                if topic == PROGRESSED or is_work_topic(topic):
                    connection.execute(_TRIM, (topic, now - PASSING_SECONDS, topic == PROGRESSED))

    def _next_calls(self) -> list[_Call]:
        """Wait for a call and take what else is there; empty when the log is closed."""
        calls: list[_Call] = []
        while len(calls) < _BATCH and (not calls or not self._calls.empty()):
            call = self._calls.get()
            if call is None:
                # Put back, so that the end is met again after this batch.
                self._calls.put(None)
                break
            calls.append(call)
        return calls

    def _translate(self, error: sqlite3.Error) -> HagdError:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return StoreFullError(
                f"no room left for the event log {self._path}",
                "free some space and repeat the command: finished stages are kept",
            )
        if isinstance(error, sqlite3.OperationalError):
            return UnavailableError(f"the event log {self._path} does not answer: {error}", "repeat the command")
        return CorruptArtifactError(
            f"{self._path} is no event log: {error}",
            "delete that file and repeat the command: finished stages are kept in the store",
        )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Choose the write-ahead log. SQLite does not wait for others here, so of several that open a new file at once some
    are told that it is locked."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY_CODE != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _run_together(connection: sqlite3.Connection, calls: list[_Call]) -> None:
    """Run calls in one transaction and answer them once it is on disk; one that fails does not spoil the others."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        answers = [call(connection) for call, _ in calls]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # Some errors have ended the transaction already, for instance a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if len(calls) == 1:
            calls[0][1].set_exception(error)
            return
        for call in calls:
            _run_together(connection, [call])
    else:
        for (_, future), answer in zip(calls, answers, strict=True):
            future.set_result(answer)


def _record(position: int, topic: str, body: bytes, at: float) -> Record:
    return Record(position, topic, Envelope.decode(body), at=at)
