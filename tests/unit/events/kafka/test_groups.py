"""What a group has committed, told also by a cluster that has only just begun to know of groups."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import CoordinatorNotAvailableError, NotCoordinatorError
from kafka.structs import TopicPartition

from hagd.events.kafka import groups
from hagd.events.kafka.groups import committed

TOPIC = "hagd.one.requested.v1"
PLACE = TopicPartition(TOPIC, 3)


class Admin:
    """A client whose cluster answers once it has said so many errors."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def list_group_offsets(self, names: list[str]) -> dict[str, Any]:
        if self._errors:
            raise self._errors.pop(0)
        return {name: {PLACE: SimpleNamespace(offset=17)} for name in names}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_LOOK_SECONDS", 0.0)


def test_a_cluster_that_has_no_coordinator_yet_is_asked_again() -> None:
    admin = Admin(CoordinatorNotAvailableError(), NotCoordinatorError())
    assert committed(admin, "", TOPIC, [TOPIC]) == {PLACE: 17}


def test_one_that_never_has_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(NotCoordinatorError):
        committed(Admin(NotCoordinatorError()), "", TOPIC, [TOPIC])
