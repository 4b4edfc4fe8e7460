"""A place to work, where the toy stages are installed."""

from pathlib import Path

import pytest

from hagd.execution.inline import InlineExecutor
from integration import toy_stages
from integration.command_line import CommandLine


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty working directory."""
    toy_stages.install(tmp_path / "installed", monkeypatch)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hagd(workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Give the command line, to be called in an empty working directory. Stages run in this process, to save time."""
    monkeypatch.setattr("hagd.pipeline.embedded.ProcessExecutor", lambda **_: InlineExecutor())
    return CommandLine(capsys)
