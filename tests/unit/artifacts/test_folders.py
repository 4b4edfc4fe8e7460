"""Files that are whole or as they were."""

import errno
from pathlib import Path

import pytest

from hagd.artifacts.folders import write_whole
from hagd.errors import StoreFullError


def test_a_file_is_written_into_a_new_folder_and_over_what_a_link_points_to(tmp_path: Path) -> None:
    write_whole("first", tmp_path / "new" / "a.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "new" / "a.txt")
    write_whole("second", tmp_path / "link.txt")
    assert (tmp_path / "new" / "a.txt").read_text() == "second"
    assert (tmp_path / "link.txt").is_symlink()
    assert [it.name for it in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_what_was_there_stays_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a.txt"
    write_whole("first", place)
    write_text = Path.write_text

    def cut(self: Path, data: str, encoding: str | None = None) -> int:
        write_text(self, data[:3], encoding=encoding)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(StoreFullError):
        write_whole("second", place)
    assert place.read_text() == "first"
    assert [it.name for it in tmp_path.iterdir()] == ["a.txt"]


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_whole("anything", Path("/dev/null"))
    assert not Path("/dev/null").is_file()
