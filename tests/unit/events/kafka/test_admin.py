"""The topics of hagd on Kafka: what they promise, and that making them twice or finding weaker ones is told apart."""

import secrets
from dataclasses import replace

import pytest
from kafka import KafkaAdminClient

from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.kafka.admin import Durability, TopicPlan, TopicState, create_topics, plan_topics, require_topics
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.topics import ENTRY_STAGE, PROGRESSED, dead_letter_topic, fact_topic, requested_topic, retry_topic
from kafka_logs import event, settings

ONE_NODE = Durability(replication=1, min_insync=1)


def new_stage() -> str:
    """Give a stage that no earlier test has topics of; the broker may be an old one."""
    return f"toy-{secrets.token_hex(4)}"


def plans(stage_id: str = "toy", **partitions: int) -> dict[str, TopicPlan]:
    return {plan.name: plan for plan in plan_topics([stage_id], partitions, 5, Durability())}


def test_work_is_kept_for_ever_on_three_brokers_of_which_two_have_it() -> None:
    made = plans()
    topic = requested_topic("toy")
    for name in (requested_topic(ENTRY_STAGE), topic, retry_topic(topic, 10.0), dead_letter_topic("toy")):
        assert made[name].replication == 3
        assert made[name].config["min.insync.replicas"] == "2"
        assert made[name].config["retention.ms"] == "-1"
        assert made[name].config["retention.bytes"] == "-1"
        assert made[name].config["cleanup.policy"] == "delete"
        assert made[name].config["unclean.leader.election.enable"] == "false"


def test_facts_are_kept_for_their_days_and_progress_for_one() -> None:
    made = plans()
    assert made[fact_topic("toy")].config["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert made[PROGRESSED].config["retention.ms"] == str(24 * 3600 * 1000)


def test_partitions_are_set_by_stage() -> None:
    made = plans(toy=24, extraction=3)
    assert made[requested_topic("toy")].partitions == made[retry_topic(requested_topic("toy"), 120.0)].partitions == 24
    assert made[requested_topic(ENTRY_STAGE)].partitions == 3
    assert made[PROGRESSED].partitions == 5


def test_topics_hold_the_largest_event() -> None:
    assert all(int(plan.config["max.message.bytes"]) > 1 << 20 for plan in plans().values())


@pytest.mark.parametrize(
    ("partitions", "otherwise", "message"),
    [({"none": 3}, 5, "no stage is called none"), ({"toy": 0}, 5, "at least one"), ({}, 0, "at least one")],
)
def test_partitions_that_cannot_be_are_refused(partitions: dict[str, int], otherwise: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        plan_topics(["toy"], partitions, otherwise, ONE_NODE)


@pytest.mark.parametrize(("replication", "min_insync", "days"), [(1, 2, 1), (1, 0, 1), (3, 2, 0)])
def test_durability_that_cannot_be_promised_is_refused(replication: int, min_insync: int, days: int) -> None:
    with pytest.raises(InvalidInputError, match="cannot be promised"):
        Durability(replication, min_insync, days)


PLAN = TopicPlan("t", 5, 3, {"retention.ms": "1000", "min.insync.replicas": "2", "cleanup.policy": "delete"})


@pytest.mark.parametrize(
    ("change", "weakness"),
    [
        ({"partitions": 4}, "partitions is 4, not 5"),
        ({"replication": 2}, "replication is 2, not 3"),
        ({"config": {**PLAN.config, "retention.ms": "999"}}, "retention.ms is 999, not 1000"),
        ({"config": {**PLAN.config, "min.insync.replicas": "1"}}, "min.insync.replicas is 1, not 2"),
        ({"config": {**PLAN.config, "cleanup.policy": "compact"}}, "cleanup.policy is compact, not delete"),
        ({"config": {**PLAN.config, "cleanup.policy": ""}}, "cleanup.policy is not set, not delete"),
    ],
)
def test_every_promise_that_is_weaker_is_named(change: dict[str, object], weakness: str) -> None:
    state = TopicState(5, 3, PLAN.config)
    assert state.weaker_than(PLAN) == []
    assert replace(state, **change).weaker_than(PLAN) == [weakness]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"partitions": 6}, {"replication": 4}, {"config": {**PLAN.config, "retention.ms": "-1"}}]
)
def test_more_than_was_asked_for_is_no_weakness(change: dict[str, object]) -> None:
    assert replace(TopicState(5, 3, PLAN.config), **change).weaker_than(PLAN) == []  # type: ignore[arg-type]


@pytest.mark.kafka
@pytest.mark.servers
@pytest.mark.xdist_group("kafka")
def test_topics_are_made_once_and_are_good_to_work_with(kafka_address: str) -> None:
    kafka = settings(kafka_address)
    stage = new_stage()
    wanted = plan_topics([stage], {stage: 2}, 1, ONE_NODE)
    planned = create_topics(kafka, wanted, dry_run=True)
    made = create_topics(kafka, wanted)
    again = create_topics(kafka, wanted)
    mine = requested_topic(stage)
    assert {report.action for report in planned if stage in report.name} == {"would be made"}
    assert {report.action for report in made if stage in report.name} == {"made"}
    assert {report.action for report in again if stage in report.name} == {"there"}
    assert [report.partitions for report in again if report.name == mine] == [2]
    log = KafkaEventLog(kafka)
    assert log.append(mine, event("a"))
    assert [record.envelope.id for record in log.read(mine)] == ["a"]
    log.close()


@pytest.mark.kafka
@pytest.mark.servers
@pytest.mark.xdist_group("kafka")
def test_missing_topics_are_told_with_the_command_that_makes_them(kafka_address: str) -> None:
    stage_id = new_stage()
    with pytest.raises(UnavailableError, match="topics are missing on Kafka") as caught:
        require_topics(settings(kafka_address), [stage_id], routes=False)
    assert "hagd admin topics create" in caught.value.hint
    create_topics(settings(kafka_address), plan_topics([stage_id], {}, 1, ONE_NODE))
    require_topics(settings(kafka_address), [stage_id], routes=False)
    require_topics(settings(kafka_address), [stage_id], routes=True)


@pytest.mark.kafka
@pytest.mark.servers
@pytest.mark.xdist_group("kafka")
def test_a_weaker_topic_is_told_and_left_alone(kafka_address: str) -> None:
    stage = new_stage()
    topic = requested_topic(stage)
    admin = KafkaAdminClient(bootstrap_servers=kafka_address)
    weak = {"num_partitions": 1, "replication_factor": 1, "configs": {"retention.ms": "5000"}}
    admin.create_topics({topic: weak})
    admin.wait_for_topics([topic])
    admin.close()
    wanted = plan_topics([stage], {}, 3, ONE_NODE)
    for _ in range(2):
        (report,) = [report for report in create_topics(settings(kafka_address), wanted) if report.name == topic]
        assert report.action == "weaker"
        assert "partitions is 1, not 3" in report.weaknesses
        assert "retention.ms is 5000, not -1" in report.weaknesses


@pytest.mark.kafka
@pytest.mark.servers
@pytest.mark.xdist_group("kafka")
def test_a_cluster_that_is_too_small_says_so(kafka_address: str) -> None:
    with pytest.raises(InvalidInputError, match="does not make topic") as caught:
        create_topics(settings(kafka_address), plan_topics([new_stage()], {}, 1, Durability(99, 2)))
    assert "--replication" in caught.value.hint
