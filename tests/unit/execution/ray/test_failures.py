"""What Ray says about a death becomes one short line with a remedy; what it says about itself is an outage.

Ray is loaded by the tests and not with the module: it reads at that moment how a cluster is to be spoken to.
"""

from typing import Any

import pytest

from hagd.errors import HagdError, UnavailableError, WorkerDiedError

PROCESS_DEATH = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called."
)
EXIT = "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code 4."
MEMORY = "Task was killed due to the node running low on memory.\nMemory on the node was 15.2GB / 16.0GB."
NODE = "The actor died because its node has died. Node Id: abc"


def told(name: str, *values: Any) -> HagdError:
    """Give what becomes of an error of Ray; the death of an actor takes its text as the library sets it."""
    exceptions = pytest.importorskip("ray.exceptions", reason="no Ray: pip install 'hagd[ray]'")
    from hagd.execution.ray.failures import error_of_ray  # noqa: PLC0415

    if name == "ActorDiedError":
        error = exceptions.ActorDiedError()
        error.error_msg = values[0]
    else:
        error = getattr(exceptions, name)(*values)
    return error_of_ray(error, "toy")


@pytest.mark.parametrize(
    ("error", "words", "remedy"),
    [
        (("ActorDiedError", PROCESS_DEATH), "its process was killed or crashed (ActorDiedError)", "lack of memory"),
        (("ActorDiedError", EXIT), "its process ended with exit code 4 (ActorDiedError)", "lack of memory"),
        (("ActorDiedError", NODE), "its node was lost (ActorDiedError)", "ray status"),
        (("OutOfMemoryError", MEMORY), "its node ran out of memory (OutOfMemoryError)", "reserve more memory"),
        (("NodeDiedError", "The node is gone"), "The node is gone (NodeDiedError)", "ray status"),
        (("ActorUnavailableError", "no answer", None), "(ActorUnavailableError)", "ray status"),
        (("WorkerCrashedError",), "(WorkerCrashedError)", "ray status"),
    ],
)
def test_a_death_is_named_with_its_cause_and_a_remedy(error: tuple[Any, ...], words: str, remedy: str) -> None:
    found = told(*error)
    assert isinstance(found, WorkerDiedError)
    assert found.message.startswith("the worker of stage 'toy' is gone: ")
    assert words in found.message
    assert remedy in found.hint


@pytest.mark.parametrize("error", [("RaySystemError", "x"), ("ActorUnschedulableError", "y")])
def test_trouble_of_the_cluster_is_an_outage_and_no_death(error: tuple[str, str]) -> None:
    found = told(*error)
    assert isinstance(found, UnavailableError)
    assert "Ray does not serve stage 'toy'" in found.message


def test_paragraphs_are_cut() -> None:
    assert len(told("ActorDiedError", "word " * 1000).message) < 400
