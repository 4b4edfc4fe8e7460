"""What a member of a group tells the others it owns."""

from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription
from kafka.structs import TopicPartition

from hagd.events.kafka.consumer import _Listener


class Owner:
    """A member as its listener sees it."""

    def __init__(self) -> None:
        self.lost: set[tuple[str, int]] = set()

    def lose(self, places: Any) -> None:
        self.lost |= set(places)


class Cluster:
    def topics(self) -> set[str]:
        return {"t"}

    def partitions_for_topic(self, topic: str) -> set[int]:  # noqa: ARG002 - as of the client
        return {0, 1, 2, 3}


class Member:
    def __init__(self, member_id: str, assignor: CooperativeStickyAssignor) -> None:
        self.member_id = member_id
        self.metadata = ConsumerProtocolSubscription.decode(assignor.metadata(["t"]).encode())


def test_partitions_of_a_member_that_the_group_forgot_are_given_to_somebody_at_once() -> None:
    """If it went on to claim them, those that another one is to have would be left out until it gave them up."""
    assignor, owner = CooperativeStickyAssignor(), Owner()
    assignor.on_assignment(ConsumerProtocolAssignment(1, [("t", [0, 1, 2, 3])], b""), 1)

    def shared_out() -> list[int]:
        members = [Member("forgotten", assignor), Member("fresh", CooperativeStickyAssignor())]
        found = CooperativeStickyAssignor().assign(Cluster(), members)
        return sorted(it.partition for each in found.values() for it in each.partitions())

    assert len(shared_out()) < 4
    _Listener(owner, None, assignor).on_partitions_lost([TopicPartition("t", number) for number in range(4)])  # pyright: ignore[reportArgumentType]
    assert owner.lost == {("t", number) for number in range(4)}
    assert shared_out() == [0, 1, 2, 3]
