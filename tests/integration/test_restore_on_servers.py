"""Restoring a cluster: the store is there, the log is lost or older than it, and every run reaches its one outcome."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable
from hagd.artifacts.s3 import S3Store
from hagd.events.kafka.log import KafkaEventLog
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import submit
from integration.command_line import CommandLine
from integration.test_restore import ONCE_EACH, journaled
from kafka_logs import settings
from real_servers import give_up
from s3_stores import new_s3_store
from servers.found import S3Address
from servers.kafka import Kafka, running_kafka
from servers.places import has_kafka
from unit.pipeline.toy_stages import STAGES

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.s3,
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.xdist_group("kafka"),
    # kafka-python forgets sockets that a broker let go of while it ended.
    pytest.mark.filterwarnings("ignore:Exception ignored in. .socket.socket:pytest.PytestUnraisableExceptionWarning"),
]


class Services:
    """All services of a cluster in this process, step by step."""

    def __init__(self, address: str, store: S3Store, journal: Path) -> None:
        self.runs, self.journal = RunStore(store), journal
        self.log = KafkaEventLog(settings(address, patience_seconds=0.2))
        self.router, clock = RequestRouter(self.log, self.runs, STAGES), SystemClock()
        parts = (self.log, store, self.runs, InlineExecutor())
        self.loops = [StageLoop(spec, *parts, LeaseTable(store, clock), clock) for spec in STAGES.values()]

    def submit(self, name: str, seed: int) -> str:
        return submit(journaled(name, self.journal, seed), self.runs.store, self.log, STAGES)

    def work(self, stages: int, until: Callable[[], bool]) -> None:
        """Let the router and the first so many stages work until something holds."""
        deadline = time.monotonic() + 120.0
        while not until():
            assert time.monotonic() < deadline, "it never held"
            for step in [self.router.step, *(loop.step for loop in self.loops[:stages])]:
                step()

    def brought(self, run_id: str, stages: int) -> str:
        """Give a run that is finished up to a stage."""
        self.work(stages, lambda: self.runs.stages(run_id)[stages - 1].status == "done")
        return run_id


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Kafka]:
    """Give a broker whose data may be taken away."""
    if not has_kafka():
        give_up("no Kafka that may be restarted: run `make servers`")
    with running_kafka(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture
def store(minio: S3Address, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Give a store, and set the command line to it and to the broker."""
    opened = new_s3_store(minio)
    found = {"LOG": "kafka", "KAFKA_SERVERS": kafka.address, "STORE": opened.location}
    found |= {"S3_ACCESS_KEY": minio.access_key, "S3_SECRET_KEY": minio.secret_key}
    for name, value in found.items():
        monkeypatch.setenv(f"HAGD_{name}", value)
    return opened


def create_topics(hagd: CommandLine) -> None:
    stages = [part for stage_id in STAGES for part in ("--stage", stage_id)]
    size = ["--partitions", "2", "--replication", "1", "--min-insync", "1"]
    made = hagd("admin", "topics", "create", *stages, *size)
    assert made.code == 0, made.err


@pytest.mark.parametrize("log", ["lost", "older"])
def test_every_run_reaches_one_outcome_and_no_finished_stage_is_computed_again(
    log: str, kafka: Kafka, store: S3Store, tmp_path: Path, hagd: CommandLine
) -> None:
    journal, data, copy = tmp_path / "journal", tmp_path / "kafka" / "data", tmp_path / "copy"
    journal.mkdir()
    create_topics(hagd)
    services = Services(kafka.address, store, journal)
    ids = {"finished": services.brought(services.submit("finished", 1), 3)}
    ids["two-done"] = services.brought(services.submit("two-done", 2), 2)
    ids["one-done"] = services.brought(services.submit("one-done", 4), 1)
    services.log.close()

    # The log first, then the store: what goes on in between is in the store alone.
    kafka.process.stop()
    shutil.copytree(data, copy)
    kafka.start()
    services = Services(kafka.address, store, journal)
    services.brought(ids["one-done"], 2)
    ids["cancelled"] = services.submit("cancelled", 5)
    services.runs.cancel(ids["cancelled"])
    ids["submitted"] = services.submit("submitted", 6)
    services.log.close()

    kafka.process.stop()
    shutil.rmtree(data)
    if log == "older":
        shutil.copytree(copy, data)
    else:
        kafka.format()
    kafka.start()
    create_topics(hagd)
    unknown = {"submitted", "cancelled"} if log == "older" else set(ids) - {"finished"}
    stalled = hagd("run", "list", "--deployed", "--stalled", "--json").data
    assert {run["run_id"] for run in stalled} == {ids[name] for name in unknown}
    resubmitted = hagd("run", "resubmit", "--json").data
    assert set(resubmitted) == {ids[name] for name in unknown - {"cancelled"}}
    assert hagd("run", "resubmit", "--json").data == []

    services = Services(kafka.address, store, journal)
    services.work(3, lambda: all(services.runs.outcome(run_id) is not None for run_id in ids.values()))
    services.log.close()
    outcomes = {name: services.runs.outcome(run_id) for name, run_id in ids.items()}
    assert {name: outcome and outcome.status for name, outcome in outcomes.items()} == {
        **dict.fromkeys(ids, "verified"),
        "cancelled": "cancelled",
    }
    for name in set(ids) - {"cancelled"}:
        assert Counter((journal / name).read_text().splitlines()) == ONCE_EACH, name
