"""What each principal is allowed on Kafka, as a plan; what a broker makes of it stands in the integration tests."""

from itertools import combinations

import pytest

from hagd.errors import InvalidInputError
from hagd.events.kafka.acls import Grant, plan_grants
from hagd.events.topics import is_work_topic

CHAIN = ("subject", "transcoder", "coarsening", "traversal", "verification")
ENTRY = {"hagd.extraction.requested.v1", "hagd.extraction.requested.batch.v1"}
EACH = {f"s-{stage}": (stage,) for stage in CHAIN}


def allowed(grants: list[Grant], principal: str, operation: str, kind: str = "topic") -> set[str]:
    return {it.name for it in grants if (it.principal, it.operation, it.kind) == (principal, operation, kind)}


def test_a_stage_reads_its_own_requests_and_writes_what_follows_from_them() -> None:
    grants = plan_grants(EACH, [CHAIN], "blue.")
    own = {"hagd.coarsening.requested.v1", "hagd.coarsening.requested.batch.v1"}
    retries = {f"{topic}.retry.{tier}" for topic in own for tier in ("10s", "2m", "30m")}

    assert allowed(grants, "s-coarsening", "read") == own | retries | {"hagd.stage.progressed.v1"}
    assert allowed(grants, "s-coarsening", "read", "group") == {
        f"blue.{topic}{end}" for topic in own for end in ("", ".retry")
    }
    assert allowed(grants, "s-coarsening", "write") == {
        *own,
        *retries,
        *(f"{topic}.unreadable" for topic in own),
        "hagd.coarsening.dead.v1",
        "hagd.hierarchy.built.v1",
        "hagd.traversal.requested.v1",
        "hagd.traversal.requested.batch.v1",
        "hagd.stage.progressed.v1",
        "hagd.run.failed.v1",
        "hagd.run.cancelled.v1",
        *ENTRY,
    }
    assert allowed(grants, "s-coarsening", "write", "group") == set()


def test_the_last_stage_asks_for_none() -> None:
    written = allowed(plan_grants(EACH, [CHAIN]), "s-verification", "write")

    assert {name for name in written if is_work_topic(name)} == {
        *ENTRY,
        "hagd.verification.requested.v1",
        "hagd.verification.requested.batch.v1",
    }


def test_the_router_hands_requests_to_the_first_stages_alone() -> None:
    grants = plan_grants({"door": ("extraction",)}, [CHAIN, ("other", "verification")])
    written = allowed(grants, "door", "write")

    assert {name for name in written if is_work_topic(name)} == {
        f"hagd.{stage}.requested{lane}.v1" for stage in ("subject", "other") for lane in ("", ".batch")
    }
    assert "hagd.stage.progressed.v1" not in written | allowed(grants, "door", "read")


def test_no_two_stages_read_the_same_requests_or_write_the_same_facts() -> None:
    grants = plan_grants(EACH, [CHAIN])
    shared = {"hagd.stage.progressed.v1", "hagd.run.failed.v1", "hagd.run.cancelled.v1", *ENTRY}

    for one, other in combinations(EACH, 2):
        assert allowed(grants, one, "read") & allowed(grants, other, "read") <= shared
        both = allowed(grants, one, "write") & allowed(grants, other, "write") - shared
        assert {name for name in both if not is_work_topic(name)} == set()
        assert allowed(grants, one, "read", "group") & allowed(grants, other, "read", "group") == set()


def test_a_swapped_stage_may_ask_for_what_follows_in_its_chain() -> None:
    leiden = ("subject", "transcoder", "leiden", "traversal", "verification")
    grants = plan_grants({"t": ("transcoder",), "l": ("leiden",)}, [CHAIN, leiden])

    assert {"hagd.coarsening.requested.v1", "hagd.leiden.requested.v1"} <= allowed(grants, "t", "write")
    assert "hagd.traversal.requested.v1" in allowed(grants, "l", "write")


def test_a_producer_asks_and_reads_what_became_of_it_and_no_request_of_others() -> None:
    grants = plan_grants(EACH, [CHAIN], producers=["shop"])
    assert allowed(grants, "shop", "write") == ENTRY
    read = allowed(grants, "shop", "read")
    assert {"hagd.circuit.verified.v1", "hagd.run.failed.v1", "hagd.extraction.requested.v1.unreadable"} <= read
    assert not any(is_work_topic(topic) for topic in read)
    assert allowed(grants, "shop", "read", "group") == set()


@pytest.mark.parametrize("stages", [("nobody",), ()])
def test_a_principal_without_a_stage_of_a_chain_is_refused(stages: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="which no chain has"):
        plan_grants({"one": stages}, [CHAIN])
