"""Every method that a service registers has a scope, and no scope is for a method that nobody has."""

import importlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from hagd.deployment.config import Places, ServiceConfig
from hagd.execution.selection import ExecutorSettings
from hagd.rpc.security.scopes import ALL_SCOPES, OPEN, SCOPES

SERVICES = ("transcoder", "coarsening", "traversal", "verification")


class Recorder(grpc.aio.Server):
    """Stands in for a gRPC server and keeps what is registered."""

    def __init__(self, **_: Any) -> None:
        self.methods: set[str] = set()

    async def start(self) -> None: ...

    async def stop(self, grace: float | None) -> None: ...

    async def wait_for_termination(self, timeout: float | None = None) -> bool: ...

    def add_insecure_port(self, address: str) -> int: ...

    def add_secure_port(self, address: str, server_credentials: Any) -> int: ...

    def add_registered_method_handlers(self, service: str, methods: dict[str, Any]) -> None:
        self.methods |= {f"/{service}/{method}" for method in methods}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        for handler in handlers:
            self.methods |= set(handler._method_handlers)


def registered(service: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    made: list[Recorder] = []

    def server(**options: Any) -> Recorder:
        made.append(Recorder(**options))
        return made[-1]

    monkeypatch.setattr(grpc.aio, "server", server)
    bootstrap = importlib.import_module(f"hagd_{service}.bootstrap").bootstrap
    host = bootstrap(ServiceConfig(Places(root / service), "127.0.0.1:0", executor=ExecutorSettings("inline")))
    host.log.close()
    (recorder,) = made
    return recorder.methods


def test_no_method_of_any_service_lacks_a_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {method for service in SERVICES for method in registered(service, tmp_path, monkeypatch)}

    assert {"/hagd.api.transcoder.v1.TranscoderService/StreamExtractions"} <= found
    assert {"/google.longrunning.Operations/CancelOperation"} <= found
    assert found - set(SCOPES) == set()


def test_no_scope_is_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {method for service in SERVICES for method in registered(service, tmp_path, monkeypatch)}

    # Servicers of today know no `List` of health, which clients of tomorrow may ask for.
    assert set(SCOPES) - found <= {"/grpc.health.v1.Health/List"}
    assert set(SCOPES.values()) == {*ALL_SCOPES, OPEN}


def test_nothing_but_health_is_open() -> None:
    assert {method.split("/")[1] for method, scope in SCOPES.items() if scope == OPEN} == {"grpc.health.v1.Health"}
