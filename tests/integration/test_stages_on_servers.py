"""The loops of stages over a real broker and a real store: what embedded runs do, they do on a cluster."""

import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable
from hagd.artifacts.s3 import S3Store
from hagd.events.kafka.admin import Durability, create_topics, plan_topics
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.topics import fact_topic
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import submit
from kafka_logs import settings
from s3_stores import keys, new_settings
from servers.found import S3Address
from unit.pipeline.toy_stages import STAGES

pytestmark = [pytest.mark.kafka, pytest.mark.s3, pytest.mark.servers, pytest.mark.xdist_group("kafka")]


@dataclass
class Service:
    """Everything of one process that works off all stages: its own log, store, and loops in threads."""

    log: KafkaEventLog
    store: S3Store
    stages: dict[str, StageSpec]
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        runs, clock = RunStore(self.store), SystemClock()
        router = RequestRouter(self.log, runs, self.stages)
        for spec in self.stages.values():
            leases = LeaseTable(self.store, clock)
            loop = StageLoop(spec, self.log, self.store, runs, InlineExecutor(), leases, clock, stop=self.stop)
            self.threads.append(threading.Thread(target=loop.run))
        self.threads.append(threading.Thread(target=router.run, args=(self.stop,)))
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.log.close()


@pytest.fixture
def services(kafka_address: str, minio: S3Address) -> Iterator[list[Service]]:
    """Two services over the same broker and bucket, whose stages bear names that no earlier test used."""
    tail = secrets.token_hex(4)
    stages = {f"{name}-{tail}": replace(spec, id=f"{name}-{tail}") for name, spec in STAGES.items()}
    create_topics(settings(kafka_address), plan_topics(stages, {}, 2, Durability(1, 1)))
    bucket = new_settings(minio)
    pair = [Service(KafkaEventLog(settings(kafka_address)), S3Store(bucket, keys(minio)), stages) for _ in range(2)]
    yield pair
    for service in pair:
        service.close()


def test_two_services_bring_every_run_to_one_outcome_and_compute_equal_work_once(services: list[Service]) -> None:
    first, second = services
    for service in services:
        service.start()
    requests = [request(first.stages, str(number), seed=number % 5) for number in range(11)]
    ids = [submit(each, first.store, first.log, first.stages) for each in requests]
    runs = RunStore(second.store)
    deadline = time.monotonic() + 120
    while any(runs.outcome(run_id) is None for run_id in ids):
        assert time.monotonic() < deadline, [runs.outcome(run_id) for run_id in ids]
        time.sleep(0.1)
    assert {outcome.status for run_id in ids if (outcome := runs.outcome(run_id))} == {"verified"}
    results = {run_id: runs.get(run_id).outputs["evidence"] for run_id in ids}
    assert len({ref.sha256 for ref in results.values()}) == 1
    # Five seeds, three stages, and each of their results once.
    assert len(second.store.list("manifests/")) == 15
    for stage_id in first.stages:
        facts = first.log.read(fact_topic(stage_id))
        assert {record.envelope.run_id for record in facts} == set(ids)
        assert len({record.envelope.id for record in facts}) == len(ids)


def request(stages: dict[str, StageSpec], name: str, seed: int) -> Request:
    configs: dict[str, dict[str, Any]] = {"numbers": {"seed": seed}, "verdict": {"threshold": -100.0}}
    plan = [
        PlanEntry(stage_id, spec.semantics_version, configs.get(stage_id.partition("-")[0], {}))
        for stage_id, spec in stages.items()
    ]
    return Request("me", name, tuple(plan))
