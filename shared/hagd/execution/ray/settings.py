"""How one service uses a Ray cluster. Loads without Ray."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from hagd.errors import InvalidInputError
from hagd.execution.devices import DeviceKind

_CLIENT_SCHEME: Final = "ray://"


@dataclass(frozen=True)
class RaySettings:
    """A pool of equal workers, one task at a time each.

    Raises:
        InvalidInputError: Ray could not place such a worker, or the address is one of Ray Client.
    """

    address: str = "auto"
    """`host:port` of the cluster's control service; `auto` is RAY_ADDRESS, else the cluster of this machine."""
    workers: int = 1
    """The most workers at a time: the capacity of the service."""
    cpus: float = 1.0
    """CPUs that a worker reserves; its threads are the whole ones of them, at least one."""
    gpus: float = 0.0
    """GPUs that a worker reserves: 0, a part of one, or whole ones. Parts share a GPU's memory without a wall."""
    memory_bytes: int | None = None
    """Memory that a worker reserves; Ray places by it, and does not enforce it."""
    idle_time: timedelta = timedelta(seconds=60)
    """How long a worker without a task keeps what it reserves."""
    grace: timedelta = timedelta(seconds=5)
    """How long a task may take to heed a stop before its worker is killed."""
    start_time: timedelta = timedelta(minutes=30)
    """How long a worker may wait for a place, which includes starting a node."""
    max_tasks: int = 32
    """Tasks after which a worker is replaced, which bounds what leaks."""
    device: DeviceKind = "auto"
    """What tasks compute on: `auto` is a GPU where workers reserve some."""

    def __post_init__(self) -> None:
        if self.address.startswith(_CLIENT_SCHEME):
            raise InvalidInputError(
                f"{self.address} is an address of Ray Client, which loses tasks when its connection breaks",
                "run the service on a node of the cluster and leave the address at 'auto'",
            )
        if self.workers < 1 or self.max_tasks < 1:
            raise InvalidInputError(
                f"a pool of {self.workers} Ray workers with {self.max_tasks} tasks each does nothing",
                "give at least one of both",
            )
        if self.cpus < 0 or self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise InvalidInputError(
                f"no Ray worker can have {self.cpus:g} CPUs and {self.gpus:g} GPUs",
                "GPUs are 0, a part of one, or whole ones",
            )
        if self.device == "cuda" and not self.gpus:
            raise InvalidInputError(
                "Ray workers are to compute on a GPU, and reserve none", "reserve one, or a part, with --ray-gpus"
            )

    @property
    def threads(self) -> int:
        """CPU threads of a worker."""
        return max(1, int(self.cpus))

    @property
    def reserved(self) -> str:
        """What a worker reserves, in words."""
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        memory = f", {self.memory_bytes / 2**30:.3g} GiB" if self.memory_bytes else ""
        return f"{self.cpus:g} CPU{gpus}{memory}"
