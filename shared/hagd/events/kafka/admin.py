"""The topics of hagd on Kafka: what they must be like, making them, and comparing those that are there.

Work is never dropped for its age: topics that are worked off, their retry topics and what could not be worked off have
no retention by time or size; what lies below the lowest committed offset is trimmed by other means. Facts are kept for
a time, because the state of runs lies in the store. No topic elects a leader that lacks what was answered.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError

from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import MAKE_TOPICS, translated
from hagd.events.kafka.settings import MAX_RECORD_BYTES, KafkaSettings
from hagd.events.topics import (
    ENTRY_STAGE,
    LANES,
    PASSING_SECONDS,
    PROGRESSED,
    RETRY_TIERS,
    RUN_CANCELLED,
    RUN_FAILED,
    dead_letter_topic,
    fact_topic,
    requested_topic,
    retry_topic,
    unreadable_topic,
)

_DAY_MS: Final = 24 * 3600 * 1000
_FOREVER: Final = "-1"
# Numbers of which more is safer; -1 is without end.
_AT_LEAST: Final = ("min.insync.replicas", "retention.ms", "retention.bytes", "max.message.bytes")


@dataclass(frozen=True)
class Durability:
    """What a cluster is asked to promise."""

    replication: int = 3
    """Brokers that hold each partition."""
    min_insync: int = 2
    """Brokers that have a record before an append is answered."""
    fact_days: int = 30
    """How long facts are kept for observers."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_insync <= self.replication or self.fact_days < 1:
            raise InvalidInputError(
                f"{self.min_insync} of {self.replication} replicas and {self.fact_days} days cannot be promised",
                "min-insync is at least 1 and at most replication, days are at least 1",
            )


@dataclass(frozen=True)
class TopicPlan:
    """A topic as it must be."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class TopicState:
    """A topic as it is there."""

    partitions: int
    replication: int
    config: Mapping[str, str]

    def weaker_than(self, plan: TopicPlan) -> list[str]:
        """Say in what the topic promises less than the plan; more is fine."""
        found = [
            f"{name} is {there}, not {wanted}"
            for name, there, wanted in (
                ("partitions", self.partitions, plan.partitions),
                ("replication", self.replication, plan.replication),
            )
            if there < wanted
        ]
        for name, wanted in plan.config.items():
            there = self.config.get(name, "")
            enough = _number(there) >= _number(wanted) if name in _AT_LEAST else there == wanted
            if not enough:
                found.append(f"{name} is {there or 'not set'}, not {wanted}")
        return found


@dataclass(frozen=True)
class TopicReport:
    """What became of one topic."""

    name: str
    action: Literal["made", "would be made", "there", "weaker"]
    partitions: int
    weaknesses: list[str] = field(default_factory=list[str])


def plan_topics(
    stage_ids: Iterable[str], partitions: Mapping[str, int], otherwise: int, durability: Durability
) -> list[TopicPlan]:
    """Give all topics of some stages, and those of every deployment.

    Args:
        stage_ids: the stages.
        partitions: by stage id: how many members may work off the stage at once. `extraction` is where runs come in.
        otherwise: partitions of a stage that is not named.
        durability: what to promise.

    Raises:
        InvalidInputError: a number is no number of partitions, or is given for an unknown stage.
    """
    stages = sorted({*stage_ids, ENTRY_STAGE})
    if unknown := sorted(set(partitions) - set(stages)):
        raise InvalidInputError(f"no stage is called {', '.join(unknown)}", f"the stages are {', '.join(stages)}")
    if min(otherwise, *partitions.values()) < 1 if partitions else otherwise < 1:
        raise InvalidInputError("a topic needs at least one partition", "give 1 or more")
    kept = _config(durability, _FOREVER)
    facts = _config(durability, str(durability.fact_days * _DAY_MS))
    passing = _config(durability, str(round(PASSING_SECONDS * 1000)))
    plans: list[TopicPlan] = []
    for stage_id in stages:
        count = partitions.get(stage_id, otherwise)
        aside = [dead_letter_topic(stage_id)]
        for topic in (requested_topic(stage_id, lane) for lane in LANES):
            work = [topic, *(retry_topic(topic, tier) for tier in RETRY_TIERS)]
            plans += [TopicPlan(name, count, durability.replication, kept) for name in work]
            aside.append(unreadable_topic(topic))
        plans += [TopicPlan(name, 1, durability.replication, kept) for name in aside]
        if stage_id != ENTRY_STAGE:
            plans.append(TopicPlan(fact_topic(stage_id), count, durability.replication, facts))
    plans += [TopicPlan(name, otherwise, durability.replication, facts) for name in (RUN_FAILED, RUN_CANCELLED)]
    plans.append(TopicPlan(PROGRESSED, otherwise, durability.replication, passing))
    return plans


def create_topics(settings: KafkaSettings, plans: Iterable[TopicPlan], *, dry_run: bool = False) -> list[TopicReport]:
    """Make those topics that are missing, compare the others with what they must be; change none.

    Raises:
        InvalidInputError: the cluster cannot keep what is asked for, such as three copies on two brokers.
        UnavailableError: it does not answer, or refuses.
    """
    with translated(settings.servers), closing(_connect(settings)) as admin:
        plans = list(plans)
        there = describe(admin, [plan.name for plan in plans])
        missing = [plan for plan in plans if plan.name not in there]
        if missing and not dry_run:
            _make(admin, missing, settings)
    reports: list[TopicReport] = []
    for plan in plans:
        state = there.get(plan.name)
        if state is None:
            reports.append(TopicReport(plan.name, "would be made" if dry_run else "made", plan.partitions))
            continue
        weaknesses = state.weaker_than(plan)
        reports.append(TopicReport(plan.name, "weaker" if weaknesses else "there", state.partitions, weaknesses))
    return reports


def require_topics(settings: KafkaSettings, stage_ids: Iterable[str], *, routes: bool) -> None:
    """Make sure that every topic is there that a service of some stages reads or writes.

    Args:
        settings: the cluster.
        stage_ids: the stages.
        routes: whether it hands requests to the first stage of their plan, and not only writes them.

    Raises:
        UnavailableError: one is missing, or the cluster does not answer, or refuses.
    """
    needed = {plan.name for plan in plan_topics(stage_ids, {}, 1, Durability())}
    if not routes:
        written = {requested_topic(ENTRY_STAGE, lane) for lane in LANES}
        needed = {name for name in needed if name in written or f".{ENTRY_STAGE}." not in name}
    with translated(settings.servers), closing(_connect(settings)) as admin:
        missing = sorted(needed - {topic["name"] for topic in admin.describe_topics()})
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UnavailableError(
            f"{len(missing)} topics are missing on Kafka at {settings.servers}: {shown}", MAKE_TOPICS
        )


def describe(admin: Any, names: Iterable[str]) -> dict[str, TopicState]:
    """Give those of some topics that are there."""
    wanted = set(names)
    found: dict[str, list[Any]] = {
        topic["name"]: topic["partitions"] for topic in admin.describe_topics() if topic["name"] in wanted
    }
    if not found:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
    configs: dict[str, dict[str, dict[str, Any]]] = admin.describe_configs(resources, config_filter="all")["topic"]
    return {
        name: TopicState(
            len(partitions),
            min(len(partition["replica_nodes"]) for partition in partitions),
            {key: str(value["value"]) for key, value in configs[name].items()},
        )
        for name, partitions in found.items()
    }


def _make(admin: Any, plans: list[TopicPlan], settings: KafkaSettings) -> None:
    wanted = {
        plan.name: {
            "num_partitions": plan.partitions,
            "replication_factor": plan.replication,
            "configs": dict(plan.config),
        }
        for plan in plans
    }
    answer = admin.create_topics(wanted, raise_errors=False)
    for topic in answer["topics"]:
        code, text = topic["error_code"], topic.get("error_message") or ""
        # Somebody else may have made it at the same moment.
        if code not in (0, TopicAlreadyExistsError.errno):
            raise InvalidInputError(
                f"Kafka at {settings.servers} does not make topic {topic['name']}: {text or f'error {code}'}",
                "ask for fewer replicas with --replication and --min-insync, or add brokers",
            )
    admin.wait_for_topics(list(wanted))


def _config(durability: Durability, retention_ms: str) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": retention_ms,
        "retention.bytes": _FOREVER,
        "min.insync.replicas": str(durability.min_insync),
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(MAX_RECORD_BYTES),
    }


def _connect(settings: KafkaSettings) -> Any:
    # What is known to type checkers of this class is older than the class.
    return connect(KafkaAdminClient, settings)


def _number(text: str) -> float:
    try:
        return float("inf") if text == _FOREVER else float(text)
    except ValueError:
        return float("-inf")
