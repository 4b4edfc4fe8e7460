"""Who may use which topics: the least that the stages of a principal need, as ACLs of Kafka.

A principal is one service process, and works off one stage or several. Everything is literal: no pattern could reach
a topic that somebody makes later.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)

from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import translate, translated
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.topics import (
    ENTRY_STAGE,
    LANES,
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

_LOOK_SECONDS: Final = 0.1
_KINDS: Final = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}
_OPERATIONS: Final = {"read": ACLOperation.READ, "write": ACLOperation.WRITE}


@dataclass(frozen=True, order=True)
class Grant:
    """One thing that one principal may do. Each of them lets it see that the topic is there as well."""

    principal: str
    """As Kafka knows it, without `User:`."""
    kind: Literal["topic", "group"]
    name: str
    operation: Literal["read", "write"]


@dataclass(frozen=True)
class GrantReport:
    """What became of a grant."""

    grant: Grant
    action: Literal["made", "would be made", "there"]


@dataclass(frozen=True)
class AclReport:
    """What the cluster allows now."""

    grants: list[GrantReport]
    beyond: list[str]
    """What those principals may do beside that; nothing of it is taken away."""


def plan_grants(
    principals: Mapping[str, Collection[str]],
    chains: Iterable[Sequence[str]],
    group_prefix: str = "",
    producers: Iterable[str] = (),
) -> list[Grant]:
    """Give all that some principals need and nothing more.

    Args:
        principals: the stages that each works off, `extraction` for the router among them.
        chains: plans that are to be possible, as stages in their order: each may ask for what follows it in one.
        group_prefix: what the services put before the names of their consumer groups.
        producers: principals of other systems, which ask for runs and read what becomes of them.

    Raises:
        InvalidInputError: a principal has no stage, or one that no chain has.
    """
    chains = [tuple(chain) for chain in chains]
    known = {ENTRY_STAGE, *(stage for chain in chains for stage in chain)}
    found: set[Grant] = set()
    for principal, stages in principals.items():
        unknown = sorted(set(stages) - known)
        if unknown or not stages:
            raise InvalidInputError(
                f"{principal} works off {', '.join(unknown) or 'nothing'}, which no chain has",
                f"chains have {', '.join(sorted(known))}",
            )
        for stage in stages:
            following = _following(stage, chains)
            found |= {Grant(principal, *rest) for rest in _needs(stage, following, group_prefix)}
    for producer in producers:
        found |= {Grant(producer, "topic", requested_topic(ENTRY_STAGE, lane), "write") for lane in LANES}
        found |= {Grant(producer, "topic", topic, "read") for topic in _told_to_producers(chains)}
    return sorted(found)


def _told_to_producers(chains: Iterable[Sequence[str]]) -> set[str]:
    """Give the topics from which another system learns what became of requests, those that were refused among them."""
    facts = {fact_topic(stage) for chain in chains for stage in chain}
    refused = {unreadable_topic(requested_topic(ENTRY_STAGE, lane)) for lane in LANES}
    return {*facts, *refused, dead_letter_topic(ENTRY_STAGE), PROGRESSED, RUN_FAILED, RUN_CANCELLED}


def _following(stage: str, chains: Iterable[Sequence[str]]) -> set[str]:
    if stage == ENTRY_STAGE:
        return {chain[0] for chain in chains if chain}
    return {after for chain in chains for before, after in pairwise(chain) if before == stage}


def _needs(
    stage: str, following: Iterable[str], group_prefix: str
) -> Iterable[tuple[Literal["topic", "group"], str, Literal["read", "write"]]]:
    written = [dead_letter_topic(stage), RUN_FAILED]
    written += [requested_topic(name, lane) for name in following for lane in LANES]
    for topic in (requested_topic(stage, lane) for lane in LANES):
        retries = [retry_topic(topic, tier) for tier in RETRY_TIERS]
        for name in (topic, *retries):
            yield "topic", name, "read"
        for name in (topic, f"{topic}.retry"):
            yield "group", f"{group_prefix}{name}", "read"
        written += [*retries, unreadable_topic(topic)]
        if stage != ENTRY_STAGE:
            # A divided stage asks itself for its parts.
            written.append(topic)
    if stage != ENTRY_STAGE:
        # A stage that finds an input damaged starts the run again, and every service takes requests in.
        written += [requested_topic(ENTRY_STAGE, lane) for lane in LANES]
        written += [fact_topic(stage), PROGRESSED, RUN_CANCELLED]
        # Whichever service is asked to watch a run tells how far its stages are.
        yield "topic", PROGRESSED, "read"
    for name in written:
        yield "topic", name, "write"


def create_acls(settings: KafkaSettings, grants: Iterable[Grant], *, dry_run: bool = False) -> AclReport:
    """Write those grants that are missing; tell what the same principals may do beyond them, and change none of it.

    Raises:
        InvalidInputError: the cluster keeps no ACLs.
        UnavailableError: it does not answer, or refuses.
    """
    grants = list(grants)
    wanted = {_acl(grant): grant for grant in grants}
    with translated(settings.servers), closing(_connect(settings)) as admin:
        principals = sorted({grant.principal for grant in grants})
        there = _held(admin, principals)
        missing = [acl for acl in wanted if acl not in there]
        if missing and not dry_run:
            failed: list[Any] = admin.create_acls(missing)["failed"]
            for error in failed:
                raise translate(error(), settings.servers)
            _wait_for(admin, missing, principals, settings)
    new: Literal["made", "would be made"] = "would be made" if dry_run else "made"
    reports = [GrantReport(grant, "there" if acl in there else new) for acl, grant in wanted.items()]
    return AclReport(reports, sorted(_told(acl) for acl in there - set(wanted)))


def _held(admin: Any, principals: Iterable[str]) -> set[Any]:
    return {acl for principal in principals for acl in admin.describe_acls(_all_of(principal))[0]}


def _wait_for(admin: Any, made: Iterable[Any], principals: Iterable[str], settings: KafkaSettings) -> None:
    """Wait until the brokers have heard from their controller, so that a service that starts next is let in."""
    deadline = time.monotonic() + settings.delivery_timeout_seconds
    while not _held(admin, principals) >= set(made):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"Kafka at {settings.servers} has taken the ACLs and does not show them yet", "repeat the command"
            )
        time.sleep(_LOOK_SECONDS)


def _acl(grant: Grant) -> ACL:
    resource = ResourcePattern(_KINDS[grant.kind], grant.name)
    return ACL(f"User:{grant.principal}", "*", _OPERATIONS[grant.operation], ACLPermissionType.ALLOW, resource)


def _all_of(principal: str) -> ACLFilter:
    resource = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    return ACLFilter(f"User:{principal}", None, ACLOperation.ANY, ACLPermissionType.ANY, resource)


def _told(acl: Any) -> str:
    what = acl.resource_pattern
    words = [acl.permission_type.name, acl.principal.removeprefix("User:"), acl.operation.name]
    return " ".join([*words, what.resource_type.name, what.resource_name, what.pattern_type.name]).lower()


def _connect(settings: KafkaSettings) -> Any:
    # What is known to type checkers of this class is older than the class.
    return connect(KafkaAdminClient, settings)
