"""What the SQLite log promises beyond the port: durability, several processes, clear errors."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hagd.errors import CorruptArtifactError, StoreFullError, UnavailableError
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.sqlite import SqliteEventLog
from hagd.events.topics import PROGRESSED, RUN_FAILED, dead_letter_topic, fact_topic, requested_topic
from hagd.testing import ManualClock

WRITER = """
import sys, time
from pathlib import Path
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.sqlite import SqliteEventLog
log = SqliteEventLog(Path(sys.argv[1]))
for number in range(10**6):
    log.append("t", Envelope(str(number), "run", "somebody", 0, 0, (PlanEntry("one", 1),), {}))
    print(number, flush=True)
"""


def event(name: str) -> Envelope:
    return Envelope(name, "run", "somebody", 0, 0, (PlanEntry("one", 1),), {})


def test_whatever_was_answered_is_there_after_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "log"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().strip() for _ in range(7)]
        os.kill(writer.pid, signal.SIGKILL)
        answered += writer.stdout.read().split()
    log = SqliteEventLog(tmp_path / "log")
    there = [record.envelope.id for record in log.read("t", limit=10**6)]
    log.close()
    assert there[: len(answered)] == answered
    assert len(answered) >= 7


def test_two_openings_of_one_file_never_claim_one_event(tmp_path: Path) -> None:
    one, two = SqliteEventLog(tmp_path / "log"), SqliteEventLog(tmp_path / "log")
    one.append("t", event("a"))
    claims = [one.claim(["t"], 60), two.claim(["t"], 60)]
    assert [claim is not None for claim in claims] == [True, False]
    one.close()
    two.close()


def test_who_holds_the_sole_right_need_not_wait_for_claims_of_the_dead(tmp_path: Path) -> None:
    clock = ManualClock()
    first = SqliteEventLog(tmp_path / "log", clock=clock)
    first.append("t", event("a"))
    assert first.claim(["t"], 60) is not None
    first.close()
    patient = SqliteEventLog(tmp_path / "log", clock=clock)
    assert patient.claim(["t"], 60) is None
    patient.close()
    sole = SqliteEventLog(tmp_path / "log", clock=clock, release_claims=True)
    assert sole.claim(["t"], 60) is not None
    sole.close()


@pytest.mark.parametrize("is_opened_again", [True, False])
def test_progress_and_finished_work_go_after_a_day_and_nothing_else_ever(tmp_path: Path, is_opened_again: bool) -> None:
    clock, work = ManualClock(5.0), requested_topic("one")
    kept = [fact_topic("one"), dead_letter_topic("one"), RUN_FAILED]
    log = SqliteEventLog(tmp_path / "log", clock=clock)
    for topic in (work, PROGRESSED, *kept):
        log.append(topic, event("old"))
    finished = log.claim([work], 60)
    assert finished is not None
    assert log.ack(finished)
    log.append(work, event("open"))
    clock.advance(24 * 3600.0 - 1.0)
    log.append(PROGRESSED, event("new"))

    def reopened(log: SqliteEventLog) -> SqliteEventLog:
        if is_opened_again:
            log.close()
            log = SqliteEventLog(tmp_path / "log", clock=clock)
        log.read(work)
        return log

    def ids(topic: str) -> list[str]:
        return [record.envelope.id for record in log.read(topic)]

    log = reopened(log)
    assert (ids(work), ids(PROGRESSED)) == (["old", "open"], ["old", "new"])
    clock.advance(3600.0)
    log = reopened(log)
    assert (ids(work), ids(PROGRESSED)) == (["open"], ["new"])
    assert [ids(topic) for topic in kept] == [["old"]] * 3
    assert log.read(work)[0].offset > finished.record.offset
    log.close()


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "log")
    log.close()
    log.close()
    with pytest.raises(UnavailableError, match="is closed"):
        log.read("t")


def test_a_file_of_something_else_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"not a data base, but long enough to be looked at" * 100)
    with pytest.raises(CorruptArtifactError, match="is no event log") as caught:
        SqliteEventLog(tmp_path / "log")
    assert "finished stages are kept" in caught.value.hint


def test_a_folder_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        SqliteEventLog(tmp_path / "none" / "log")


def test_a_full_disk_is_named_and_what_was_answered_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # pyright: ignore
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    log = SqliteEventLog(tmp_path / "log")
    written = 0
    with pytest.raises(StoreFullError, match="no room left for the event log"):
        for written in range(10**4):
            log.append("t", event(f"{written:04d}" * 100))
    assert len(log.read("t", limit=10**4)) == written > 0
    log.close()


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """SQLite waits for nobody when it turns to its write-ahead log; of some hundred openings a few met that."""
    for number in range(40):
        path, start = tmp_path / str(number), threading.Barrier(8)

        def open_one(_: int, path: Path = path, start: threading.Barrier = start) -> list[object]:
            start.wait()
            log = SqliteEventLog(path)
            found: list[object] = [*log.waiting(["t"])]
            log.close()
            return found

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(open_one, range(8))) == [[]] * 8
