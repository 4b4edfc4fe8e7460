"""`hagd` against a service process with certificates and tokens, set up by files and the environment alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from certificates import AUDIENCE, ISSUER, Authority, Issuer
from hagd.deployment.config import ServiceConfig
from hagd.rpc.hosting import StageHost
from hagd.rpc.process import Identity, run_process
from integration.command_line import CommandLine


@pytest.fixture
def files(workplace: Path) -> dict[str, str]:
    """Give the variables of a service and of a caller, and the files that they name."""
    authority, issuer = Authority(workplace / "security"), Issuer(workplace / "security" / "keys")
    service, alice = authority.issue("service"), authority.issue("alice")
    issuer.add("one")
    token = workplace / "security" / "token"
    token.write_text(issuer.token("one", "alice"))
    return {
        "HAGD_TLS_CERT": str(service.cert),
        "HAGD_TLS_KEY": str(service.key),
        "HAGD_TLS_CLIENT_CA": str(authority.ca),
        "HAGD_TOKEN_KEYS": str(issuer.folder),
        "HAGD_TOKEN_ISSUER": ISSUER,
        "HAGD_TOKEN_AUDIENCE": AUDIENCE,
        "HAGD_CA_FILE": str(authority.ca),
        "HAGD_CERT_FILE": str(alice.cert),
        "HAGD_KEY_FILE": str(alice.key),
        "HAGD_TOKEN_FILE": str(token),
    }


@pytest.fixture
def service(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """Give the address and process of a service."""
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    # Any address, since it has both.
    command = [sys.executable, "-m", "hagd_coarsening", "--root", "root", "--listen", "0.0.0.0:0", "--until-eof"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["address"].rpartition(":")[2]
    yield f"127.0.0.1:{port}", process.pid
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


def test_a_caller_with_files_is_let_in_and_one_without_is_told_why(
    hagd: CommandLine, service: tuple[str, int], files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, pid = service
    asked = ["run", "list", "--address", address, "--json"]
    token = Path(files["HAGD_TOKEN_FILE"]).read_text()
    assert hagd(*asked).data == []
    monkeypatch.delenv("HAGD_TOKEN_FILE")
    assert hagd(*asked, "--token-file", files["HAGD_TOKEN_FILE"]).data == []
    without = hagd(*asked)
    assert (without.code, without.error["kind"]) == (1, "unauthenticated")
    assert "HAGD_TOKEN_FILE" in without.error["hint"]
    monkeypatch.delenv("HAGD_CERT_FILE")
    monkeypatch.delenv("HAGD_KEY_FILE")
    assert hagd(*asked).error["kind"] == "unavailable"
    shown = " ".join([*psutil.Process(pid).cmdline(), *psutil.Process(pid).environ().values()])
    assert token not in shown


def test_a_service_says_before_it_opens_anything_that_it_would_be_open_to_strangers(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the process sets up for itself would outlive this test.
    for name in ("configure_logging", "configure_tracing"):
        monkeypatch.setattr(f"hagd.rpc.process.{name}", lambda *_, **__: None)

    def bootstrap(config: ServiceConfig) -> StageHost:
        raise AssertionError("it was opened")

    identity = Identity("toy", ("toy-subject",), 50051)
    assert run_process(identity, bootstrap, ["--root", "root", "--listen", "0.0.0.0:0"]) == 2
    told = "".join(capsys.readouterr())
    assert "0.0.0.0:0 is open to other machines" in told
    assert "--insecure" in told
