"""Where a worker lets its tasks compute: decided here and nowhere else, when a stage asks its context.

A stage that never asks stays on the processor. torch is imported only then: drivers load this module, too.
"""

import importlib
import logging
import os
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from hagd.errors import UsageError

_LOG: Final = logging.getLogger(__name__)
DEVICE_VARIABLE: Final = "HAGD_DEVICE"
DeviceKind = Literal["auto", "cpu", "cuda"]
CPU: Final = "cpu"


@dataclass(frozen=True)
class Devices:
    """What a worker may use."""

    wanted: str = "auto"
    """A `DeviceKind`. `auto` is a GPU where one is reserved for this worker and torch sees it, else the processor."""
    reserved: bool = False
    """Whether GPUs are reserved for it. Where nobody shares them out, workers would meet on one unasked."""

    @staticmethod
    def of_environment() -> "Devices":
        """Give what the variable says to a worker for which nothing is reserved."""
        return Devices(os.environ.get(DEVICE_VARIABLE) or "auto")

    def of_rank(self, rank: int = 0) -> str:
        """Give the device of one rank of a group, as torch names it; ranks share where they outnumber the GPUs.

        Raises:
            UsageError: a GPU is asked for and torch sees none, or the setting is none of ours.
        """
        if self.wanted not in get_args(DeviceKind):
            raise UsageError(f"{DEVICE_VARIABLE} is {self.wanted!r}", f"set {', '.join(get_args(DeviceKind))}")
        if self.wanted == CPU or (self.wanted == "auto" and not self.reserved):
            return CPU
        torch: Any = importlib.import_module("torch")
        if count := torch.cuda.device_count() if torch.cuda.is_available() else 0:
            return f"cuda:{rank % count}"
        if self.wanted == "cuda":
            raise UsageError(
                "the worker is to compute on a GPU, and torch sees none",
                f"install a torch that is built for CUDA, reserve GPUs with --ray-gpus, or set {DEVICE_VARIABLE}=cpu",
            )
        _LOG.warning("GPUs are reserved for this worker, and torch sees none: it computes on the processor")
        return CPU
