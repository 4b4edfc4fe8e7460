"""Collects what a task left behind, so that the next one starts from the memory that a fresh process would have."""

import gc
import sys
from typing import Any


class Leftovers:
    """The collector of one worker. Modules are its largest part and stay, so they are set aside once loaded."""

    def __init__(self) -> None:
        self._modules = 0

    def collect(self) -> None:
        """Collect garbage; takes milliseconds only after a task that has loaded modules."""
        gc.collect()
        # Looked up, not imported, as where tasks are run.
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            # torch would keep it for the next task, and others may share the GPU.
            torch.cuda.empty_cache()
        if len(sys.modules) != self._modules:
            self._modules = len(sys.modules)
            gc.freeze()
