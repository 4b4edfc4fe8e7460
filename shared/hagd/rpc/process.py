"""What `python -m hagd_<service>` does: read the settings, print them if asked, else serve to the end."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from hagd.deployment.config import ServiceConfig, config_of
from hagd.deployment.sources import Reading, read_command_line
from hagd.errors import HagdError
from hagd.rpc.hosting import StageHost
from hagd.telemetry.logs import configure_logging
from hagd.telemetry.tracing import configure_tracing

_SCHEMA = "hagd.service/v1"


@dataclass(frozen=True)
class Identity:
    """What is fixed about a service."""

    name: str
    stages: tuple[str, ...]
    """Those it runs, unless its settings name others."""
    port: int
    """Where it listens, unless its settings say otherwise."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Give the settings whose default differs from that of other services."""
        return {"listen": f"127.0.0.1:{self.port}"}


def run_process(
    identity: Identity, bootstrap: Callable[[ServiceConfig], StageHost], arguments: Sequence[str] | None = None
) -> int:
    """Run a service to its end; give the exit code. Errors at the start are told on stderr."""
    configure_logging(json_lines=True, service=identity.name)
    configure_tracing(identity.name)
    try:
        asked = read_command_line(identity.name, arguments, identity.defaults)
        if asked.print_config:
            sys.stdout.write(_listing(asked.reading, as_json=asked.as_json))
            return 0
        config = config_of(asked.reading.settings)
        # Before anything is opened; the server itself would refuse it too.
        config.security.check_address(config.listen)
        return asyncio.run(_serve(config, bootstrap))
    except HagdError as error:
        structlog.get_logger("hagd").error(error.message, hint=error.hint, kind=error.kind)
        return error.exit_code


async def _serve(config: ServiceConfig, bootstrap: Callable[[ServiceConfig], StageHost]) -> int:
    # Inside the event loop, because grpc.aio binds a server to the loop that runs when it is made.
    host = bootstrap(config)
    return await host.serve(config.listen, until_eof=config.until_eof)


def _listing(reading: Reading, *, as_json: bool) -> str:
    rows = reading.rows()
    if as_json:
        return json.dumps({"schema": _SCHEMA, "kind": "config", "data": rows}, indent=2) + "\n"
    shown = [(row["name"], "" if row["value"] is None else str(row["value"]), row["origin"]) for row in rows]
    table = [("setting", "value", "from"), *shown]
    widths = [max(len(row[column]) for row in table) for column in (0, 1)]
    return "".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}\n" for name, value, origin in table)
