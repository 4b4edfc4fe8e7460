"""The rows of a graph while they are made: in memory, or in a file, so that only the rows at hand take memory.

Either way they lie in pages of their own, of which what no edge is written to takes none: about half, since a row
reaches only what comes before it. They lie on the CPU, wherever they are made.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hagd.artifacts.mapped import let_go, mapped_zeros

READ_CELLS: Final = 1 << 22
"""Cells that are read back at a time."""


class RowTable:
    """Rows, zero at first."""

    def __init__(self, n_rows: int, n_columns: int, like: Tensor, folder: Path | None) -> None:
        """Make room.

        Args:
            n_rows: how many.
            n_columns: how long.
            like: a tensor of the same dtype, on the device where rows are made.
            folder: where they go into a file; None for memory.

        Raises:
            OSError: the folder has no room for them.
        """
        self._array = mapped_zeros((n_rows, n_columns), like.new_empty(0, device="cpu").numpy().dtype, folder)
        self._device = like.device
        self.edges: Float[Tensor, "row column"] = torch.from_numpy(self._array)

    @contextmanager
    def writing(self, rows: slice = slice(None)) -> Generator[Float[Tensor, "row column"]]:
        """Lend the place of some rows, where they are made: their own, or one on the device that is copied to it."""
        place = self.edges[rows]
        lent = place if self._device == place.device else torch.zeros_like(place, device=self._device)
        yield lent
        if lent is not place:
            place.copy_(lent)
        self.let_go()

    def let_go(self) -> None:
        """Give back the memory of what was written to a file."""
        let_go(self._array)

    def parts(self) -> Iterator[tuple[slice, Float[Tensor, "row column"]]]:
        """Give some rows after the other."""
        together = max(1, READ_CELLS // max(1, self.edges.shape[1]))
        for first in range(0, len(self.edges), together):
            place = slice(first, min(first + together, len(self.edges)))
            yield place, self.edges[place]
            self.let_go()

    def array(self) -> Float[np.ndarray, "row column"]:
        """Give all of them."""
        return self._array
