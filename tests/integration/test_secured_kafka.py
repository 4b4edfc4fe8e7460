"""Services on a real broker that tells its clients apart: each does its work, and nothing else."""

import gc
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from certificates import Authority
from guarded_kafka import GuardedKafka, guarded_kafka
from hagd.artifacts.clock import SystemClock
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.leases import LeaseTable
from hagd.cli.app import run
from hagd.errors import HagdError, InvalidInputError, UnavailableError
from hagd.events.kafka.acls import create_acls, plan_grants
from hagd.events.kafka.admin import Durability, create_topics, plan_topics, require_topics
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.topics import ENTRY_STAGE, dead_letter_topic, fact_topic, requested_topic, retry_topic
from hagd.execution.inline import InlineExecutor
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import submit
from kafka_logs import event, joined
from real_servers import give_up
from servers.places import has_kafka
from unit.pipeline.toy_stages import STAGES

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.servers,
    pytest.mark.xdist_group("guarded-kafka"),
    # kafka-python forgets sockets whose handshake failed.
    pytest.mark.filterwarnings("ignore:Exception ignored in. .ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]

CHAIN = tuple(STAGES)
USERS = [f"user-{stage}" for stage in CHAIN]
PRINCIPALS = {
    user: (stage, ENTRY_STAGE) if stage == CHAIN[0] else (stage,) for user, stage in zip(USERS, CHAIN, strict=True)
}
SESSION_SECONDS = 3.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    """Give a broker with the topics of the toy stages, and what `hagd admin acls create` allows."""
    if not has_kafka():
        give_up("no Kafka that can be guarded: run `make servers`")
    folder = tmp_path_factory.mktemp("guarded")
    with guarded_kafka(folder, [*USERS, "nobody", "rotating"], session_seconds=SESSION_SECONDS) as kafka:
        create_topics(kafka.settings("admin"), plan_topics([*CHAIN, "turning"], {}, 2, Durability(1, 1)))
        create_acls(kafka.settings("admin"), plan_grants(PRINCIPALS, [CHAIN]))
        create_acls(kafka.settings("admin"), plan_grants({"rotating": ("turning",)}, [("turning", "turning")]))
        yield kafka
    # While what it complains of is still forgiven, see above.
    gc.collect()


@contextmanager
def log_of(settings: KafkaSettings) -> Iterator[KafkaEventLog]:
    log = KafkaEventLog(replace(settings, delivery_timeout_seconds=8.0))
    try:
        yield log
    finally:
        log.close()


def refused(action: Callable[[], Any]) -> HagdError:
    with pytest.raises(UnavailableError) as caught:
        action()
    return caught.value


def test_every_stage_does_its_work_under_its_own_name(guarded: GuardedKafka, tmp_path: Path) -> None:
    for user, stages in PRINCIPALS.items():
        routes = ENTRY_STAGE in stages
        require_topics(guarded.settings(user), [stage for stage in stages if stage != ENTRY_STAGE], routes=routes)
    store = FilesystemStore(tmp_path)
    runs, clock, stop = RunStore(store), SystemClock(), threading.Event()
    logs = {user: KafkaEventLog(guarded.settings(user)) for user in USERS}
    threads: list[threading.Thread] = []
    for user, spec in zip(USERS, STAGES.values(), strict=True):
        leases = LeaseTable(store, clock)
        loop = StageLoop(spec, logs[user], store, runs, InlineExecutor(), leases, clock, stop=stop)
        threads.append(threading.Thread(target=loop.run))
    router = RequestRouter(logs[USERS[0]], runs, STAGES)
    threads.append(threading.Thread(target=router.run, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        configs: dict[str, dict[str, Any]] = {CHAIN[0]: {"seed": 3}, CHAIN[-1]: {"threshold": -100.0}}
        plan = tuple(PlanEntry(name, STAGES[name].semantics_version, configs.get(name, {})) for name in CHAIN)
        run_id = submit(Request("me", "one", plan), store, logs[USERS[0]], STAGES)
        deadline = time.monotonic() + 120
        while (outcome := runs.outcome(run_id)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert outcome.status == "verified"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for log in logs.values():
            log.close()
    with log_of(guarded.settings("admin")) as observer:
        for stage in CHAIN:
            assert [it.envelope.run_id for it in observer.read(fact_topic(stage))] == [run_id]


def test_a_stage_writes_nothing_that_is_another_s(guarded: GuardedKafka) -> None:
    first, second, third = CHAIN
    with log_of(guarded.settings(f"user-{second}")) as log:
        assert log.append(fact_topic(second), event("allowed"))
        for topic in (
            fact_topic(first),
            fact_topic(third),
            dead_letter_topic(first),
            requested_topic(first),
            retry_topic(requested_topic(third), 10.0),
            "__consumer_offsets",
        ):
            refused(lambda topic=topic: log.append(topic, event("forbidden")))
    with log_of(guarded.settings("admin")) as observer:
        for stage in (first, third):
            assert "forbidden" not in [it.envelope.id for it in observer.read(fact_topic(stage))]


def test_a_stage_reads_nothing_that_is_another_s(guarded: GuardedKafka) -> None:
    first, second, third = CHAIN
    # What a stage writes it may see, and still not read.
    seen = (fact_topic(second), dead_letter_topic(second))
    with log_of(guarded.settings("admin")) as log:
        for topic in seen:
            log.append(topic, event("for observers"))
    with log_of(guarded.settings(f"user-{second}")) as log:
        assert log.read("hagd.stage.progressed.v1") is not None
        for topic in (requested_topic(first), fact_topic(first)):
            assert "there is no topic" in refused(lambda topic=topic: log.read(topic)).message
        for topic in seen:
            assert "refuses" in refused(lambda topic=topic: log.read(topic)).message
        deadline = time.monotonic() + 30
        while (trouble := trouble_of(log, requested_topic(third))) is None:
            assert time.monotonic() < deadline
    assert "refuses" in trouble.message


def trouble_of(log: KafkaEventLog, topic: str) -> HagdError | None:
    """Give why a topic cannot be worked off; fail when an event of it is got."""
    try:
        assert log.claim([topic], 5) is None
    except UnavailableError as error:
        return error
    return None


def test_who_may_do_nothing_sees_nothing(guarded: GuardedKafka) -> None:
    with log_of(guarded.settings("nobody")) as log:
        for topic in (requested_topic(CHAIN[0]), fact_topic(CHAIN[0])):
            assert "there is no topic" in refused(lambda topic=topic: log.read(topic)).message
            refused(lambda topic=topic: log.append(topic, event("x")))


def test_a_wrong_password_and_a_foreign_authority_are_refused_and_told_without_the_password(
    guarded: GuardedKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = f"wrong-{secrets.token_hex(8)}"
    user = USERS[0]
    stranger = Authority(tmp_path, "stranger").ca
    cases = [
        guarded.settings(user, wrong),
        guarded.settings("unknown", wrong),
        replace(guarded.settings(user), ca_file=stranger),
    ]
    told = ""
    for settings in cases:
        with log_of(settings) as log:
            error = refused(lambda log=log: log.append(fact_topic(CHAIN[0]), event("x")))
            assert "does not let us in" in error.message
            told += f"{error.message} {error.hint} {error!r} {settings!r} {settings.options()!r}"
    told += caplog.text
    assert wrong not in told
    assert not any(password in told for password in guarded.passwords.values())


def test_a_client_that_does_not_say_who_it_is_is_refused(guarded: GuardedKafka) -> None:
    for security in ("PLAINTEXT", "SSL"):
        settings = replace(guarded.settings(USERS[0]), security=security)
        with log_of(settings) as log:
            refused(lambda log=log: log.append(fact_topic(CHAIN[0]), event("x")))


def test_a_cluster_without_acls_is_told_as_such(kafka_address: str) -> None:
    with pytest.raises(InvalidInputError, match="keeps no ACLs"):
        create_acls(KafkaSettings(kafka_address), plan_grants({"one": ("one",)}, [("one",)]))


def test_the_command_allows_what_is_missing_and_tells_what_is_too_much(
    guarded: GuardedKafka, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in guarded.environment("admin").items():
        monkeypatch.setenv(name, value)
    name = f"cli-{secrets.token_hex(4)}"
    command = ["admin", "acls", "create", "--chain", "a,b", "--principal", f"{name}=b", "--json"]

    def actions(*more: str) -> tuple[int, set[str]]:
        code = run([*command, *more])
        answer = json.loads(capsys.readouterr().out)["data"]
        return code, {row["action"] for row in answer["grants"]}

    assert actions("--dry-run") == (0, {"would be made"})
    assert actions() == (0, {"made"})
    assert actions() == (0, {"there"})
    assert run(["admin", "acls", "create", "--chain", "a,b", "--principal", f"{name}=a"]) == 1
    told = capsys.readouterr()
    assert f"beyond what is needed: allow {name} read topic hagd.b.requested.v1" in told.err
    assert not any(password in told.out + told.err for password in guarded.passwords.values())


def test_a_password_is_replaced_under_load_and_no_event_is_lost(guarded: GuardedKafka) -> None:
    """The broker asks for the password every few seconds; between its change there and in the file, nobody gets in."""
    topic = requested_topic("turning")
    environment = guarded.environment("rotating")
    settings = guarded.settings("rotating", secrets=environment)
    written: list[str] = []
    got: set[str] = set()
    trouble: list[str] = []
    stop, all_written = threading.Event(), threading.Event()

    def write_on(log: KafkaEventLog) -> None:
        for number in range(10**6):
            if stop.is_set():
                return
            while True:
                try:
                    log.append(topic, event(f"event-{number}"))
                    break
                except UnavailableError as error:
                    trouble.append(error.message)
            written.append(f"event-{number}")
            stop.wait(0.02)

    def work_off(log: KafkaEventLog) -> None:
        while not all_written.is_set() or not got >= set(written):
            try:
                delivery = log.claim([topic], 60)
                if delivery is not None and log.ack(delivery):
                    got.add(delivery.envelope.id)
            except UnavailableError as error:
                trouble.append(error.message)

    with log_of(settings) as log:
        joined(log, topic)
        threads = [threading.Thread(target=work, args=(log,)) for work in (write_on, work_off)]
        writer, worker = threads
        for thread in threads:
            thread.start()
        try:
            more(written, got, 20)
            fresh = secrets.token_hex(16)
            change_password(guarded, "rotating", fresh)
            Path(environment["HAGD_KAFKA_PASSWORD_FILE"]).write_text(fresh)
            changed = time.monotonic()
            # Beyond the session every connection has shown the new password.
            while time.monotonic() < changed + 2 * SESSION_SECONDS:
                more(written, got, 5)
        finally:
            stop.set()
            writer.join(120)
            all_written.set()
            worker.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert got == set(written)
    assert fresh not in "".join(trouble)
    with log_of(guarded.settings("rotating")) as log:
        refused(lambda: log.append(topic, event("x")))


def more(written: list[str], got: set[str], count: int) -> None:
    """Wait until so many events more were written, and so many more were worked off."""
    goals = len(written) + count, len(got) + count
    deadline = time.monotonic() + 90
    while len(written) < goals[0] or len(got) < goals[1]:
        assert time.monotonic() < deadline, (len(written), len(got), goals)
        time.sleep(0.02)


def change_password(guarded: GuardedKafka, user: str, password: str) -> None:
    admin: Any = KafkaAdminClient(**guarded.settings("admin").options())
    admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, ScramMechanism.SCRAM_SHA_512, password)])
    admin.close()
