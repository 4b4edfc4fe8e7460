"""The command line of a service: an option goes before the environment."""

from pathlib import Path

import pytest

from hagd.rpc.wiring import ServiceConfig, parse_arguments

ENVIRONMENT = {"HAGD_ROOT": "root", "HAGD_STORE": "shared", "HAGD_LISTEN": "0.0.0.0:50051", "HAGD_THREADS": "3"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_environment_stands_in_for_options(environment: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        environment.setenv(name, value)
    assert parse_arguments("toy", 7, []) == ServiceConfig(Path("root"), "0.0.0.0:50051", Path("shared"), 3)
    given = parse_arguments("toy", 7, ["--root", "mine", "--store", "own", "--listen", "h:5", "--threads", "2"])
    assert given == ServiceConfig(Path("mine"), "h:5", Path("own"), 2)


def test_alone_it_listens_on_loopback_and_keeps_everything_in_its_root(environment: pytest.MonkeyPatch) -> None:
    assert parse_arguments("toy", 7, ["--root", "r"]) == ServiceConfig(Path("r"), "127.0.0.1:7")


@pytest.mark.parametrize("arguments", [[], ["--root", "r", "--store", "s3:http://127.0.0.1:9000/bucket"]])
def test_wrong_usage_ends_with_2(environment: pytest.MonkeyPatch, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments("toy", 7, arguments)
    assert caught.value.code == 2
