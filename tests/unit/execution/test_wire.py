"""Tasks, results and errors cross a process border as JSON, unchanged."""

import io

import pytest

from hagd import errors
from hagd.artifacts.reference import ArtifactRef
from hagd.errors import HagdError
from hagd.execution.executor import Task, TaskResult
from hagd.execution.wire import (
    Failure,
    error_of,
    failure_of,
    read_frame,
    result_from_json,
    result_to_json,
    task_from_json,
    task_to_json,
    write_frame,
)

REF = ArtifactRef("0" * 64, 7, "x/y")
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HagdError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_arrives_as_its_own_class(kind: type[HagdError]) -> None:
    there = error_of(failure_of(kind("what", "remedy")))
    assert type(there) is kind
    assert (there.message, there.hint, there.exit_code) == ("what", "remedy", kind.exit_code)


def test_an_error_from_outside_the_tree_is_internal() -> None:
    failure = failure_of(ZeroDivisionError("by 0"))
    assert (failure.kind, failure.message) == ("internal", "ZeroDivisionError: by 0")
    assert Failure.from_json(failure.to_json()) == failure


def test_what_cannot_be_written_as_text_does_not_travel() -> None:
    failure = failure_of(OSError("no file \udce9 here"))
    assert failure.message == "OSError: no file ? here"
    failure.message.encode()


def test_a_kind_that_is_not_known_here_keeps_its_name() -> None:
    error = error_of(Failure("worker-killer", "what"))
    assert (type(error), error.kind) == (HagdError, "worker-killer")


def test_tasks_and_results_survive_json() -> None:
    task = Task("one", "key", 3, "a:b", {"x": 0.5}, {"in": REF}, ("out",), "run", "trace")
    assert task_from_json(task_to_json(task)) == task
    result = TaskResult({"out": REF}, {"threads": 2}, 1.5, 4096, True, "verified")
    assert result_from_json(result_to_json(result)) == result


def test_frames_come_out_one_by_one_and_then_none() -> None:
    stream = io.BytesIO()
    for message in ({"a": "é"}, {"b": [1, 2]}):
        write_frame(stream, message)
    stream.seek(0)
    assert [read_frame(stream) for _ in range(3)] == [{"a": "é"}, {"b": [1, 2]}, None]


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\5{}", b"\xff\xff\xff\xff{}", b"\0\0\0\2{x"])
def test_a_torn_frame_is_the_end_of_the_talk(data: bytes) -> None:
    assert read_frame(io.BytesIO(data)) is None
