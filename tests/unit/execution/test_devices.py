"""A worker chooses the device of its tasks once, by its setting, by what is reserved, and by what torch sees."""

import subprocess
import sys

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.errors import InvalidInputError, UsageError
from hagd.execution.devices import Devices
from hagd.execution.executor import Task
from hagd.execution.ray.settings import RaySettings
from hagd.execution.running import compute_fingerprint, run_task
from hagd.pipeline.contract import Config, StageContext
from hagd.testing import MemoryStore


@pytest.mark.parametrize(
    ("wanted", "reserved", "seen", "expected"),
    [
        ("auto", False, 2, "cpu"),
        ("auto", True, 2, "cuda:0"),
        ("auto", True, 0, "cpu"),
        ("cpu", True, 2, "cpu"),
        ("cuda", False, 2, "cuda:0"),
    ],
)
def test_a_gpu_is_used_where_it_is_reserved_or_asked_for(
    wanted: str, reserved: bool, seen: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, seen)
    assert Devices(wanted, reserved).of_rank() == expected


def test_ranks_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 3)
    devices = Devices("cuda")
    assert [devices.of_rank(rank) for rank in range(5)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]


def test_a_gpu_that_is_not_there_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 0)
    with pytest.raises(UsageError, match="torch sees none") as caught:
        Devices("cuda").of_rank()
    assert "HAGD_DEVICE=cpu" in caught.value.hint
    with pytest.raises(UsageError, match="HAGD_DEVICE is 'tpu'"):
        Devices("tpu").of_rank()
    with pytest.raises(InvalidInputError, match="reserve none"):
        RaySettings(device="cuda")


def test_a_task_that_does_not_ask_for_a_device_loads_no_torch() -> None:
    program = "import hagd.execution.devices, hagd.execution.worker, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def ask(inputs: dict[str, Document], config: Config, context: StageContext) -> dict[str, Document]:
    """Ask for a device as the second of three does."""
    return {"told": Document({"device": context.device(1, 3)})}


def test_the_manifest_says_on_what_and_by_how_many_a_result_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    task = Task("toy", "ab" * 32, 1, f"{__name__}:ask", {}, {}, ("told",))
    result = run_task(task, MemoryStore(), lambda *_: None, lambda: False, devices=Devices("cuda"))
    found = result.compute_fingerprint
    assert (found["device"], found["device_name"], found["world_size"]) == ("cuda", "name of cuda:1", 3)
    assert (found["dtype"], found["float32_products"]) == ("float32", "highest")
    assert compute_fingerprint(1)["device"] == "cpu"


def see(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
