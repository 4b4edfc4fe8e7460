"""Other systems ask over a real broker and read its facts: both encodings, clients without a line of ours, poison."""

import json
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import TopicPartition

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable
from hagd.cli.app import run as hagd
from hagd.events.cloud_event import STRUCTURED
from hagd.events.envelope import Envelope, PlanEntry
from hagd.events.kafka.admin import Durability, create_topics, plan_topics
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.topics import ENTRY_STAGE, fact_topic, retry_topic, unreadable_topic
from hagd.execution.inline import InlineExecutor
from hagd.extraction.plan import plan_of_settings
from hagd.pipeline.dead_letters import dead_letters
from hagd.pipeline.intake import REQUESTED
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.request import Request, run_id_of
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stages import find_stage
from hagd.pipeline.state import Outcome
from hagd.rpc.intake import request_readers
from hagd.testing import MemoryStore
from integration import toy_stages
from kafka_logs import settings
from real_servers import give_up
from unit.pipeline.test_intake import as_json, as_protobuf, data_of

pytestmark = [pytest.mark.kafka, pytest.mark.servers, pytest.mark.xdist_group("kafka")]
EXAMPLES = Path(__file__).parents[2] / "examples"
STAGES = {
    place: replace(getattr(toy_stages, place.upper()), id=place, semantics_version=find_stage(place).semantics_version)
    for place in toy_stages.PLACES
}
"""The toy stages under the names of the built-in ones, so that their facts come where a client looks for them."""
Record = tuple[list[tuple[str, bytes]], bytes]


@dataclass
class Deployment:
    """Router and stages over a broker, and a producer that knows nothing of them."""

    address: str
    log: KafkaEventLog
    runs: RunStore = field(default_factory=lambda: RunStore(MemoryStore()))
    stop: threading.Event = field(default_factory=threading.Event)
    broken: list[BaseException] = field(default_factory=list[BaseException])

    def start(self) -> list[threading.Thread]:
        store, clock = self.runs.store, SystemClock()
        router = RequestRouter(self.log, self.runs, STAGES)
        works: list[Callable[[], None]] = [partial(router.run, self.stop)]
        for spec in STAGES.values():
            leases = LeaseTable(store, clock)
            loop = StageLoop(spec, self.log, store, self.runs, InlineExecutor(), leases, clock, stop=self.stop)
            works.append(loop.run)
        threads = [threading.Thread(target=self._guard, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        return threads

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.broken.append(error)

    def send(self, *records: Record) -> None:
        producer = KafkaProducer(bootstrap_servers=self.address, max_request_size=2 << 20)
        for headers, value in records:
            producer.send(REQUESTED, value, headers=headers).get(20)
        producer.close()

    def outcome(self, run_id: str) -> Outcome:
        def ended() -> bool:
            assert self.broken == []
            return self.runs.outcome(run_id) is not None

        eventually(ended)
        outcome = self.runs.outcome(run_id)
        assert outcome is not None
        return outcome


def eventually(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def deployment(kafka_address: str) -> Iterator[Deployment]:
    # Many topics, for which a broker beside other work takes its time.
    patient = settings(kafka_address, delivery_timeout_seconds=60.0)
    create_topics(patient, plan_topics(STAGES, {}, 1, Durability(1, 1)))
    readers = request_readers(partial(plan_of_settings, stages=STAGES))
    found = Deployment(kafka_address, KafkaEventLog(patient, readers=readers))
    threads = found.start()
    yield found
    found.stop.set()
    for thread in threads:
        thread.join()
    found.log.close()
    assert found.broken == []


def fresh(**config: Any) -> Request:
    plan = tuple(
        PlanEntry(place, STAGES[place].semantics_version, config if place == "coarsening" else PLAN[place])
        for place in STAGES
    )
    return Request("me", f"test-{secrets.token_hex(8)}", plan)


PLAN: dict[str, dict[str, Any]] = {place: {} for place in STAGES} | {
    "subject": {"task": {"name": "modular-addition", "modulus": 113}, "model": {"train": True, "seed": 0}}
}


def test_both_encodings_and_settings_give_the_same_task_keys_and_results(deployment: Deployment) -> None:
    plan = plan_of_settings({"task": "modular-addition", "modulus": 113}, {}, STAGES)
    first, second = replace(fresh(), plan=plan), replace(fresh(), plan=plan)
    third = fresh().request_id
    asked = {"request_id": third, "settings": {"task": "modular-addition", "modulus": 113}}
    deployment.send(as_protobuf(first), as_json(data_of(second)), as_json(asked, source="me"))

    ids = [run_id_of("me", name) for name in (first.request_id, second.request_id, third)]
    assert {deployment.outcome(run_id).status for run_id in ids} == {"verified"}
    keys = {tuple(stage.task_key for stage in deployment.runs.stages(run_id)) for run_id in ids}
    assert len(keys) == 1
    assert all(next(iter(keys)))


def test_a_request_in_both_encodings_is_one_run(deployment: Deployment) -> None:
    request = fresh()
    deployment.send(as_protobuf(request), as_json(data_of(request)), as_protobuf(request))
    run_id = run_id_of("me", request.request_id)

    assert deployment.outcome(run_id).status == "verified"
    facts = [it.envelope.id for it in deployment.log.read(fact_topic("verification")) if it.envelope.run_id == run_id]
    assert len(set(facts)) == 1
    assert [
        it for it in dead_letters(deployment.log, deployment.runs, [ENTRY_STAGE]) if it.envelope.run_id == run_id
    ] == []


def test_another_body_under_the_same_id_is_refused_with_the_reason(deployment: Deployment) -> None:
    request = fresh()
    run_id = run_id_of("me", request.request_id)
    deployment.send(as_protobuf(request))
    assert deployment.outcome(run_id).status == "verified"
    before = deployment.runs.request(run_id)
    other = replace(request, plan=fresh(fail=True).plan)
    deployment.send(as_json(data_of(other)))

    def letters() -> list[str]:
        found = dead_letters(deployment.log, deployment.runs, [ENTRY_STAGE])
        return [it.failure.kind for it in found if it.envelope.run_id == run_id]

    eventually(lambda: letters() == ["run-conflict"])
    assert deployment.runs.request(run_id) == before
    assert deployment.outcome(run_id).status == "verified"


class Unreadable(str):
    """A header name that a client of another system writes as bytes that are no text."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002 - as of any text
        return b"\xff\xfe"


def poison() -> list[Record]:
    tag = ("ce_poison", secrets.token_hex(8).encode())
    headers, value = as_protobuf(fresh())
    records: list[Record] = [
        ([], b"\xff\x00"),
        ([], b"{}"),
        (headers, value[:-3]),
        (headers, secrets.token_bytes(300)),
        ([*headers, ("ce_type", b"shop.order.placed")], value),
        as_json({"request_id": "../../etc", "settings": {}}),
        as_json({"request_id": "x", "settings": {"task": "nobody-knows"}}),
        as_json({"request_id": "x", "settings": {"task": "modular-addition", "prompts": "/etc/passwd"}}),
        as_json({"request_id": "x", "settings": {"task": "ioi", "model": "~nobody-of-this-name/x"}}),
        ([("content-type", STRUCTURED.encode())], b"[" * 99999),
        ([("hagd-attempts", b"inf"), ("hagd-not-before", b"1e300")], b"{}"),
        ([("padding", b"x" * 40_000)], b"{}"),
        ([(Unreadable("x"), b"1")], b"unreadable name"),
    ]
    return [([*headers, tag], value) for headers, value in records]


def test_poison_is_put_away_with_its_reason_and_its_headers_and_the_next_request_comes(deployment: Deployment) -> None:
    records = poison()
    request = fresh()
    deployment.send(*records, as_protobuf(request))

    assert deployment.outcome(run_id_of("me", request.request_id)).status == "verified"
    tag = records[0][0][-1]
    eventually(lambda: len(put_away(deployment.address, tag)) == len(records))
    kept = put_away(deployment.address, tag)
    assert all(dict(it.headers)["hagd-reason"] for it in kept)
    assert {it.value for it in kept} == {value for _, value in records}


def put_away(address: str, tag: tuple[str, bytes]) -> list[Any]:
    return [it for it in raw(address, unreadable_topic(REQUESTED)) if tag in it.headers]


def raw(address: str, topic: str) -> list[Any]:
    """Give every record of a topic, read as any client would."""
    consumer = KafkaConsumer(bootstrap_servers=address, auto_offset_reset="earliest", consumer_timeout_ms=500)
    places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    ends = consumer.end_offsets(places)
    found: list[Any] = []

    def done() -> bool:
        found.extend(record for batch in consumer.poll(500).values() for record in batch)
        return all(consumer.position(place) >= ends[place] for place in places)

    eventually(done)
    consumer.close()
    return found


def test_a_newer_request_waits_byte_for_byte_and_is_not_put_away(deployment: Deployment) -> None:
    tag = ("ce_note", secrets.token_hex(8).encode())
    headers, value = as_json({"novel": True}, kind=REQUESTED.replace(".v1", ".v2"))
    deployment.send(([*headers, tag], value), ([tag], b'{"schema_version": 2, "novel": true}'))

    def waiting() -> list[Any]:
        return [it for it in raw(deployment.address, retry_topic(REQUESTED, 10.0)) if tag in it.headers]

    eventually(lambda: len(waiting()) >= 2)
    assert {it.value for it in waiting()} == {value, b'{"schema_version": 2, "novel": true}'}
    assert put_away(deployment.address, tag) == []


def test_facts_are_cloud_events_to_anybody_and_events_to_our_own_reader(deployment: Deployment) -> None:
    request = fresh()
    deployment.send(as_protobuf(request))
    run_id = run_id_of("me", request.request_id)
    deployment.outcome(run_id)
    topic = fact_topic("verification")
    (fact,) = [it for it in raw(deployment.address, topic) if ("ce_subject", run_id.encode()) in it.headers]
    headers = dict(fact.headers)
    (own,) = [it.envelope for it in deployment.log.read(topic) if it.envelope.run_id == run_id]

    assert Envelope.decode(fact.value) == own
    assert (headers["ce_id"].decode(), headers["ce_type"].decode()) == (own.id, topic)
    assert (headers["content-type"], headers["ce_source"]) == (b"application/json", b"/hagd")
    assert json.loads(fact.value)["data"]["verdict"] == "verified"


def test_the_python_client_gets_its_fact(deployment: Deployment) -> None:
    check_client(deployment, [sys.executable, str(EXAMPLES / "python-client" / "submit.py")])


def test_the_go_client_gets_its_fact(deployment: Deployment, tmp_path: Path) -> None:
    go = shutil.which("go")
    if go is None:
        give_up("no Go toolchain to build the client with")
    program = tmp_path / "client"
    build = [go, "build", "-buildvcs=false", "-mod=readonly", "-o", str(program), "."]
    done = subprocess.run(build, cwd=EXAMPLES / "go-client", capture_output=True, text=True, timeout=300, check=False)
    if "dial tcp" in done.stderr or "lookup" in done.stderr:
        give_up(f"no module proxy to take the Kafka client from: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    check_client(deployment, [str(program)])


def check_client(deployment: Deployment, command: list[str]) -> None:
    """Run a client twice under one request id: both times it is told how the same run ended."""
    name = f"client-{secrets.token_hex(8)}"
    for _ in range(2):
        done = subprocess.run(
            [*command, deployment.address, name], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "hagd.circuit.verified.v1" in done.stdout
        assert '"verdict":"verified"' in done.stdout.replace("'", '"').replace(": ", ":")
    assert deployment.runs.request(run_id_of("my-app", name)).plan[0].config["task"]["modulus"] == 113


def test_the_command_line_asks_and_watches_over_kafka_alone(
    deployment: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAGD_KAFKA_SECURITY", "PLAINTEXT")
    name = f"cli-{secrets.token_hex(8)}"
    asked = ["submit", "--task", "modular-addition", "--id", name, "--kafka", deployment.address, "--watch", "--json"]

    assert hagd(asked) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert (told["run_id"], told["status"]) == (run_id_of("local", name), "verified")
    assert hagd([*asked, "--modulus", "59"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "run-conflict"


def test_an_error_of_a_stage_comes_out_as_a_fact(deployment: Deployment) -> None:
    request = fresh(fail=True)
    deployment.send(as_json(data_of(request)))
    run_id = run_id_of("me", request.request_id)
    outcome = deployment.outcome(run_id)
    assert outcome.failure is not None

    def told() -> list[Any]:
        found = raw(deployment.address, "hagd.run.failed.v1")
        return [json.loads(it.value)["data"] for it in found if ("ce_subject", run_id.encode()) in it.headers]

    eventually(lambda: bool(told()))
    assert told()[0]["failure"]["kind"] == "accuracy-gate"
