"""What the machine has left for a stage, and what a stage has taken."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

_GROUP: Final = Path("/sys/fs/cgroup")


def available_bytes(device: str = "cpu") -> int:
    """Give the memory that is free, or can be made free: of the machine, or of the container where that is less; or of
    a GPU, whose results pass through the machine's memory, so that both must hold them."""
    there = min(_of_machine(), _of_container())
    if device == "cpu":
        return there
    cuda = _cuda()
    # torch keeps what tensors have left, and takes it first.
    return min(there, cuda.mem_get_info(device)[0] + cuda.memory_reserved(device) - cuda.memory_allocated(device))


def resident_bytes(device: str = "cpu") -> int:
    """Give the memory that this process holds now, of the machine or of a GPU."""
    return psutil.Process().memory_info().rss if device == "cpu" else _cuda().memory_allocated(device)


def clock_of(device: str) -> Callable[[], float]:
    """Give a clock of seconds by which work on a device is timed: it waits until what was asked for is done."""
    if device == "cpu":
        return time.monotonic

    def seconds() -> float:
        _cuda().synchronize(device)
        return time.monotonic()

    return seconds


def free_disk_bytes(folder: Path) -> int:
    """Give what may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


def _cuda() -> Any:
    # Looked up, not imported: who computes on a GPU has loaded torch, and drivers must not.
    torch: Any = sys.modules["torch"]
    return torch.cuda


def _of_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_container() -> int:
    try:
        most, used = ((_GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return max(0, int(most) - int(used))
    except (OSError, ValueError):
        # No container, or one without a limit.
        return 1 << 62
