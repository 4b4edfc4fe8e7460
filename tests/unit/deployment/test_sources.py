"""A setting is looked for in flags, environment, file and defaults, in this order, and remembers where it was found."""

from pathlib import Path

import pytest

from hagd.deployment.sources import Reading, read_command_line, read_settings
from hagd.errors import InvalidInputError

WRITTEN = '[service]\nworkers = 3\nlog = "kafka"\n[service.coarsening]\nworkers = 5\n[service.traversal]\nthreads = 7\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, without variables of ours."""
    monkeypatch.chdir(tmp_path)
    for name in ("HAGD_WORKERS", "HAGD_STORE", "HAGD_ROOT", "HAGD_CONFIG", "HAGD_KAFKA_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def read(*arguments: str, service: str = "verification") -> Reading:
    return read_command_line(service, arguments, {"listen": "127.0.0.1:50054"}).reading


def test_flags_go_before_the_environment_that_before_the_file_that_before_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [read()]
    (folder / "hagd.toml").write_text(WRITTEN)
    found.append(read())
    monkeypatch.setenv("HAGD_WORKERS", "11")
    found.append(read())
    found.append(read("--workers", "13"))
    assert [(it.settings.workers, it.origins["workers"]) for it in found] == [
        (1, "default"),
        (3, "file"),
        (11, "environment"),
        (13, "flag"),
    ]
    assert found[0].settings.listen == "127.0.0.1:50054"
    assert found[1].settings.log == "kafka"


def test_the_table_of_one_service_goes_before_that_of_all(folder: Path) -> None:
    (folder / "hagd.toml").write_text(WRITTEN)
    assert read(service="coarsening").settings.workers == 5
    assert read(service="traversal").settings.workers == 3
    assert (read(service="traversal").settings.threads, read().settings.threads) == (7, None)
    assert read_settings().settings.workers == 3


def test_a_flag_may_switch_something_off() -> None:
    assert read().settings.reflection
    assert not read("--no-reflection").settings.reflection


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAGD_WORKERS", "")
    assert read().origins["workers"] == "default"


def test_another_file_may_be_named_and_must_then_be_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other.toml"
    with pytest.raises(InvalidInputError, match="there is no file"):
        read("--config", str(other))
    other.write_text(WRITTEN)
    assert read("--config", str(other)).settings.workers == 3
    monkeypatch.setenv("HAGD_CONFIG", str(other))
    assert read().settings.workers == 3


@pytest.mark.parametrize(
    ("written", "words", "hint"),
    [
        ("[service]\nworker = 3", r"\[service\] has the unknown key 'worker'", "did you mean 'workers'?"),
        ("[service.traversal]\nzzz = 3", r"\[service.traversal\] has the unknown key 'zzz'", "known: listen"),
        ("[service.transcode]\nworkers = 3", "unknown key 'transcode'", ""),
        ("service = 3", "is no table", "[service]"),
        ("[service]\ntraversal = 3", "is no table", "[service.traversal]"),
        ("[service", "cannot be read", "correct it"),
        ("[service]\nworkers = 'many'", "hagd.toml: workers is 'many'", "correct it"),
    ],
)
def test_what_the_file_says_wrongly_is_refused_with_a_hint(folder: Path, written: str, words: str, hint: str) -> None:
    (folder / "hagd.toml").write_text(written)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read()
    assert hint in caught.value.hint


def test_a_wrong_value_is_called_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="--session-timeout-seconds is '0'"):
        read("--session-timeout-seconds", "0")
    monkeypatch.setenv("HAGD_EXECUTOR", "slurm")
    with pytest.raises(
        InvalidInputError, match="HAGD_EXECUTOR is 'slurm': Input should be 'process', 'ray' or 'inline'"
    ):
        read()
