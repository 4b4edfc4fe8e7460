"""What the machine has left for a stage, and what a stage has taken."""

import os
import shutil
from pathlib import Path
from typing import Final

import psutil

_GROUP: Final = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Give the memory that is free, or can be made free: of the machine, or of the container where that is less."""
    return min(_of_machine(), _of_container())


def resident_bytes() -> int:
    """Give the memory that this process holds now."""
    return psutil.Process().memory_info().rss


def free_disk_bytes(folder: Path) -> int:
    """Give what may still be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


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
