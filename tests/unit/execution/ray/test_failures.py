"""What Ray says about a death becomes one short line with a remedy; what it says about itself is an outage."""

import pytest

from hagd.errors import UnavailableError, WorkerDiedError

exceptions = pytest.importorskip("ray.exceptions", reason="no Ray: pip install 'hagd[ray]'")
failures = pytest.importorskip("hagd.execution.ray.failures")

PROCESS_DEATH = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called."
)
EXIT = "Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits unexpectedly. Worker exits with an exit code 4."
MEMORY = "Task was killed due to the node running low on memory.\nMemory on the node was 15.2GB / 16.0GB."
NODE = "The actor died because its node has died. Node Id: abc"


def died(message: str) -> Exception:
    error = exceptions.ActorDiedError()
    error.error_msg = message
    return error


@pytest.mark.parametrize(
    ("error", "words", "remedy"),
    [
        (died(PROCESS_DEATH), "its process was killed or crashed (ActorDiedError)", "lack of memory"),
        (died(EXIT), "its process ended with exit code 4 (ActorDiedError)", "lack of memory"),
        (died(NODE), "its node was lost (ActorDiedError)", "ray status"),
        (exceptions.OutOfMemoryError(MEMORY), "its node ran out of memory (OutOfMemoryError)", "reserve more memory"),
        (exceptions.NodeDiedError("The node is gone"), "The node is gone (NodeDiedError)", "ray status"),
        (exceptions.ActorUnavailableError("no answer", None), "(ActorUnavailableError)", "ray status"),
        (exceptions.WorkerCrashedError(), "(WorkerCrashedError)", "ray status"),
    ],
)
def test_a_death_is_named_with_its_cause_and_a_remedy(error: Exception, words: str, remedy: str) -> None:
    found = failures.error_of_ray(error, "toy")
    assert isinstance(found, WorkerDiedError)
    assert found.message.startswith("the worker of stage 'toy' is gone: ")
    assert words in found.message
    assert remedy in found.hint


@pytest.mark.parametrize("error", [exceptions.RaySystemError("x"), exceptions.ActorUnschedulableError("y")])
def test_trouble_of_the_cluster_is_an_outage_and_no_death(error: Exception) -> None:
    found = failures.error_of_ray(error, "toy")
    assert isinstance(found, UnavailableError)
    assert "Ray does not serve stage 'toy'" in found.message


def test_paragraphs_are_cut() -> None:
    assert len(failures.error_of_ray(died("word " * 1000), "toy").message) < 400
