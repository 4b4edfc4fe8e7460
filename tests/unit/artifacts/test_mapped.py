"""Arrays in pages of their own: zeros that take memory only where written, and files that nobody finds."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from hagd.artifacts.mapped import PAGE_BYTES, let_go, mapped_zeros
from hagd.pipeline.machine import resident_bytes

ROWS, WIDTH = 61, PAGE_BYTES


def file_of(array: np.ndarray) -> int:
    """Give the number of the file that an array lies in; 0 for none."""
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, inode = line.split()[:5]
        first, last = (int(end, 16) for end in bounds.split("-"))
        if first <= address < last:
            return int(inode)
    raise AssertionError("the array lies nowhere")


@pytest.mark.parametrize("in_file", [False, True])
def test_what_is_never_written_takes_no_memory_and_is_zero(in_file: bool, tmp_path: Path) -> None:
    array = mapped_zeros((ROWS, WIDTH), np.dtype(np.float32), tmp_path if in_file else None)
    before = resident_bytes()
    array[::2, :1024] = 3
    written = -(-ROWS // 2) * 4096
    assert resident_bytes() - before <= written + (1 << 17)
    assert array.sum() == 3 * 1024 * -(-ROWS // 2)
    assert (file_of(array) != 0) == in_file


def test_a_file_holds_what_was_written_when_its_memory_was_let_go(tmp_path: Path) -> None:
    array = mapped_zeros((ROWS, WIDTH), np.dtype(np.float32), tmp_path)
    numbers = np.random.default_rng(0).random((ROWS, WIDTH), dtype=np.float32)
    array[:] = numbers
    held = resident_bytes()
    let_go(np.asarray(array)[3:])
    assert held - resident_bytes() > 0.9 * array.nbytes
    np.testing.assert_array_equal(array, numbers)


def test_memory_that_lies_in_no_file_is_never_let_go() -> None:
    for array in (mapped_zeros((3, WIDTH), np.dtype(np.float64)), np.zeros((3, WIDTH))):
        array[:] = 7
        let_go(array[1:])
        assert (array == 7).all()


def test_a_file_has_no_name_and_goes_with_its_array(tmp_path: Path) -> None:
    array = mapped_zeros((ROWS, WIDTH), np.dtype(np.float32), tmp_path)
    assert list(tmp_path.iterdir()) == []
    number = file_of(array)
    assert str(number) in Path("/proc/self/maps").read_text()
    del array
    assert str(number) not in Path("/proc/self/maps").read_text()


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _start: int, n_bytes: int) -> None:
        assert n_bytes == 3 * WIDTH * 4
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        mapped_zeros((3, WIDTH), np.dtype(np.float32), tmp_path)
    assert list(tmp_path.iterdir()) == []
