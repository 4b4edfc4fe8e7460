"""A `Group` of processes of one machine: sums by gloo, as torch has it, over the loopback interface.

The object is made by itself and not registered with torch, so that a process may be in several groups, one after the
other or in several threads.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import FileStore, ProcessGroupGloo, Store  # pyright: ignore[reportPrivateImportUsage]  # in its docs

from hagd.errors import WorkerDiedError

_PACKED: Final = 1 << 16
"""Tensors of fewer numbers travel together."""
_MEETING: Final = timedelta(minutes=2)
"""How long members wait for each other at first."""
_PATIENCE: Final = timedelta(minutes=30)
"""How long they wait later, for a member that reads, or stores what all have learned."""


class GlooGroup:
    """One member's end of it."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """Meet the others, who give the same store; it may go once that is done.

        Raises:
            WorkerDiedError: they do not come.
        """
        self.rank, self.size = rank, size
        # The form with options, which alone can name the interface, is not in torch's stubs.
        gloo: Any = ProcessGroupGloo
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        options._timeout = _MEETING
        with _noticing():
            self._gloo: Any = gloo(store, rank, size, options)
        # Once everybody is in here, nobody needs the store any more.
        self.sum_([torch.zeros(1)])
        self._gloo._set_default_timeout(_PATIENCE)

    @staticmethod
    def at(path: Path, rank: int, size: int) -> "GlooGroup":
        """Meet the others at a file that all of them can reach, and that is not there yet; errors as of `__init__`."""
        return GlooGroup(FileStore(str(path), size), rank, size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        small = [it for it in tensors if it.numel() < _PACKED or not it.is_contiguous()]
        by_dtype = [[it for it in small if it.dtype == dtype] for dtype in dict.fromkeys(it.dtype for it in small)]
        packs = [torch.cat([it.reshape(-1) for it in alike]) for alike in by_dtype]
        large = [it for it in tensors if it.numel() >= _PACKED and it.is_contiguous()]
        with _noticing():
            for work in [self._gloo.allreduce([it]) for it in (*large, *packs)]:
                work.wait()
        for alike, pack in zip(by_dtype, packs, strict=True):
            for tensor, part in zip(alike, pack.split([it.numel() for it in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def spread_(self, tensors: Sequence[Tensor]) -> None:
        with _noticing():
            for tensor in tensors:
                whole = tensor.contiguous()
                self._gloo.broadcast(whole, 0).wait()
                if self.rank and whole is not tensor:
                    tensor.copy_(whole)

    def largest(self, values: Float[Tensor, " value"], count: int) -> int:
        # What lies at the cutoff goes to lower ranks first, as it would to some token of one process.
        offered = torch.full((count,), -torch.inf)
        own = min(count, len(values))
        offered[:own] = values.topk(own, sorted=False).values
        found = [torch.empty_like(offered) for _ in range(self.size)]
        with _noticing():
            self._gloo.allgather([found], [offered]).wait()
        all_offered = torch.stack(found)
        cutoff = all_offered.flatten().topk(count, sorted=False).values.min()
        above, at = (all_offered > cutoff).sum(1), (all_offered == cutoff).sum(1)
        left = max(0, count - int(above.sum()) - int(at[: self.rank].sum()))
        return min(len(values), int(above[self.rank]) + min(left, int(at[self.rank])))


@contextmanager
def _noticing() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        raise WorkerDiedError(
            f"a process of those that train together is gone: {error}", "a kill from outside is often a lack of memory"
        ) from error
