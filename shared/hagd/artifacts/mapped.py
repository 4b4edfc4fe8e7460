"""Large arrays of zeros in pages of their own: in memory, of which what is never written takes none, or in a file.

The file has no name, so it goes with the array, or with a process that is killed; nobody can find half of it.
"""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

PAGE_BYTES: Final = mmap.PAGESIZE
"""What is written takes memory by the page."""


def mapped_zeros(shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path | None = None) -> np.ndarray:
    """Give zeros in memory, or in a file of `folder`, whose room on the disk is taken at once.

    Raises:
        OSError: there is no such room, or the folder cannot be written.
    """
    # No file and no mapping is empty.
    n_bytes = max(1, int(np.prod(shape)) * dtype.itemsize)
    if folder is None:
        pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            # In pages of two megabytes hardly any would stay empty.
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        return np.ndarray(shape, dtype, pages)
    with tempfile.TemporaryFile(dir=folder) as file:
        # A write to a page without a place on the disk would kill the process.
        os.posix_fallocate(file.fileno(), 0, n_bytes)
        return np.memmap(file, dtype, "r+", shape=shape)


def let_go(array: np.ndarray) -> None:
    """Give back the memory that a file's pages take; they are read again when they are looked at.

    Arrays that lie in no file keep theirs.
    """
    found: Any = array
    while isinstance(found, np.ndarray):
        if isinstance(found, np.memmap) and isinstance(found.base, mmap.mmap):
            if found.mode == "r+":
                found.base.madvise(mmap.MADV_DONTNEED)
            return
        found = found.base
