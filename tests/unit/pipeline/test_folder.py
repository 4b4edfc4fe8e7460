"""Run folders: what is one, what is not, and who may work in it."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hagd.errors import InvalidInputError, NotARunError, RunLockedError, StoreFullError
from hagd.pipeline.folder import RunFolder

HOLDER = """
import sys
from pathlib import Path
from hagd.pipeline.folder import RunFolder
lock = RunFolder.prepare(Path(sys.argv[1])).lock()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_new_folder_and_an_empty_one_become_run_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        folder = RunFolder.prepare(tmp_path / name)
        assert folder.store_path == tmp_path / name / "store"
        assert RunFolder.prepare(tmp_path / name) == folder


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for act in (RunFolder.prepare, RunFolder.open):
        with pytest.raises(NotARunError, match=r"is not a run: it has no hagd-run\.json") as caught:
            act(tmp_path)
        assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(NotARunError, match="is a file"):
        RunFolder.prepare(tmp_path / "thesis.tex")


def test_a_folder_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match="there is no folder"):
        RunFolder.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_of_another_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "hagd-run.json").write_text('{"schema": "hagd.run/v9", "store": "store"}')
    for act in (RunFolder.prepare, RunFolder.open):
        with pytest.raises(NotARunError, match=r"is of version 'hagd\.run/v9', this release reads 'hagd\.run/v2'"):
            act(tmp_path)


@pytest.mark.parametrize("marker", ["", "{", "[]", "{}", '"x"'])
def test_a_half_written_marker_is_named(tmp_path: Path, marker: str) -> None:
    (tmp_path / "hagd-run.json").write_text(marker)
    with pytest.raises(NotARunError, match="half written"):
        RunFolder.open(tmp_path)


def test_a_folder_in_which_nothing_was_started_yet_is_half_written_for_readers(tmp_path: Path) -> None:
    RunFolder.prepare(tmp_path)
    with pytest.raises(NotARunError, match="half written") as caught:
        RunFolder.open(tmp_path)
    assert "repeat the command" in caught.value.hint


def test_what_a_killed_maker_left_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "hagd-run.json.new").write_text('{"sch')
    assert RunFolder.prepare(tmp_path).root == tmp_path


STARTER = """
import sys
from pathlib import Path
from hagd.events.sqlite import SqliteEventLog
from hagd.pipeline.folder import RunFolder
print("ready", flush=True)
sys.stdin.readline()
folder = RunFolder.prepare(Path(sys.argv[1]))
folder.open_store(), folder.open_runs(), SqliteEventLog(folder.log_path).close()
print(folder.store_path, flush=True)
"""


def test_services_that_start_at_once_on_an_empty_volume_share_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path / "run")]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(5)
        ]
        assert [service.stdout.readline() for service in started if service.stdout] == ["ready\n"] * 5
        for service in started:
            assert service.stdin is not None
            service.stdin.write("go\n")
            service.stdin.flush()
        answers = [service.communicate(timeout=60)[0] for service in started]

    assert answers == [f"{tmp_path / 'run' / 'store'}\n"] * 5
    assert not list((tmp_path / "run").glob("*.new"))


@pytest.mark.parametrize("moment", ["looking", "writing"])
def test_of_two_makers_at_once_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The faster one finishes while the other looks whether the folder is empty, or has written half of its marker."""
    place, name = (Path, "iterdir") if moment == "looking" else (os, "fsync")
    original = getattr(place, name)

    def overtaken(argument: Any) -> Any:
        monkeypatch.setattr(place, name, original)
        faster = RunFolder.prepare(tmp_path, tmp_path / "artifacts")
        faster.open_store(), faster.open_runs()
        return original(argument)

    monkeypatch.setattr(place, name, overtaken)

    assert RunFolder.prepare(tmp_path).store_path == tmp_path / "artifacts"


def test_the_slower_of_two_makers_does_not_get_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.fsync

    def overtaken(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", original)
        RunFolder.prepare(tmp_path / "run", tmp_path / "one")

    monkeypatch.setattr(os, "fsync", overtaken)

    with pytest.raises(InvalidInputError, match="keeps its artifacts in"):
        RunFolder.prepare(tmp_path / "run", tmp_path / "another")


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)

    assert RunFolder.prepare(tmp_path / "run").root == tmp_path / "run"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["hagd-run.json"]


def test_a_shared_store_is_remembered_and_cannot_be_swapped(tmp_path: Path) -> None:
    folder = RunFolder.prepare(tmp_path / "run", tmp_path / "shared")
    assert RunFolder.prepare(tmp_path / "run").store_path == folder.store_path == tmp_path / "shared"
    with pytest.raises(InvalidInputError, match="keeps its artifacts in"):
        RunFolder.prepare(tmp_path / "run", tmp_path / "other")


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreFullError):
        RunFolder.prepare(tmp_path / "run")
    monkeypatch.undo()
    RunFolder.prepare(tmp_path / "run")


def test_one_process_works_in_a_folder_and_the_others_learn_its_id(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        folder = RunFolder.prepare(tmp_path)
        assert folder.is_active()
        with pytest.raises(RunLockedError, match=f"process {holder.pid} is working in"):
            folder.lock()
        holder.kill()
        holder.wait()
        assert not folder.is_active()
        folder.lock().release()


def test_a_lock_that_was_given_back_is_free(tmp_path: Path) -> None:
    folder = RunFolder.prepare(tmp_path)
    assert not folder.is_active()
    lock = folder.lock()
    with pytest.raises(RunLockedError, match=str(os.getpid())):
        folder.lock()
    lock.release()
    folder.lock().release()
