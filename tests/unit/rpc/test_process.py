"""The start of a service: its settings printed, or what is wrong with them told."""

import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from hagd.deployment.config import ServiceConfig
from hagd.rpc.process import Identity, run_process

SERVICE = Identity("traversal", ("traversal",), 7)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and leave the logging of the tests as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hagd.rpc.process.configure_logging", lambda **_: None)
    return tmp_path


def never(config: ServiceConfig) -> Any:
    pytest.fail("nothing is started")


def test_the_config_is_printed_with_origins_and_without_secrets(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "hagd.toml").write_text("[service]\nworkers = 3\n")
    monkeypatch.setenv("HAGD_ROOT", "/somewhere")
    monkeypatch.setenv("HAGD_KAFKA_PASSWORD", "hush-hush")
    monkeypatch.setenv("HAGD_S3_SECRET_KEY", "hush-hush")
    assert run_process(SERVICE, never, ["--print-config", "--json", "--threads", "2"]) == 0
    out = capsys.readouterr().out
    rows = {row["name"]: (row["value"], row["origin"]) for row in json.loads(out)["data"]}
    assert rows["threads"] == (2, "flag")
    assert rows["root"] == ("/somewhere", "environment")
    assert rows["workers"] == (3, "file")
    assert rows["listen"] == ("127.0.0.1:7", "default")
    assert run_process(SERVICE, never, ["--print-config"]) == 0
    table = capsys.readouterr().out
    assert ["workers", "3", "file"] in [line.split() for line in table.splitlines()]
    assert "hush" not in out + table


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--workers", "x"], "--workers is 'x'"), ([], "the event log is nowhere")]
)
def test_what_is_wrong_is_told_with_its_exit_code(arguments: list[str], words: str) -> None:
    with structlog.testing.capture_logs() as told:
        code = run_process(SERVICE, never, arguments)
    assert code == 2
    assert [(words in line["event"], bool(line["hint"])) for line in told] == [(True, True)]
