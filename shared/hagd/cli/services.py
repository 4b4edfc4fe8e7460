"""`hagd up` starts the four services on this machine; `hagd submit` sends a request to them, or to a cluster."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from hagd.cli.clusters import kafka_settings
from hagd.cli.extraction import VERDICT_EXITS
from hagd.cli.options import (
    AddressOption,
    JsonFlag,
    LaneOption,
    QuietFlag,
    StoreOption,
    UseOption,
    with_security,
    with_settings,
)
from hagd.cli.output import EXIT_FAILED, EXIT_OK, say, write_json, write_table
from hagd.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from hagd.extraction.settings import Settings
    from hagd.rpc.client import StageClient
    from hagd.rpc.kafka_client import KafkaClient
    from hagd.rpc.security.channel import ClientSecurity

PLACES: Final = {
    "transcoder": ("subject", "transcoder"),
    "coarsening": ("coarsening",),
    "traversal": ("traversal",),
    "verification": ("verification",),
}
"""Service -> places of the plan whose stages it runs."""
SERVICES: Final = tuple(PLACES)
FIRST_PORT: Final = 50051
_STOP_SECONDS: Final = 25.0
"""Longer than a service takes to drain; what is left then is killed."""
_LOOK_SECONDS: Final = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)
    app.command()(submit)


@dataclass
class Child:
    """A service process that this process started."""

    name: str
    process: "subprocess.Popen[bytes]"
    address: str = ""


def up(
    root: Annotated[Path, typer.Option(help="Folder of log, store and runs; made when missing.")],
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=0, max=65532, help="First of four ports; 0 takes free ones.")] = FIRST_PORT,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker; all by default.")] = None,
    use: UseOption = [],  # noqa: B006  # typer copies it
    as_json: JsonFlag = False,
) -> None:
    """Start the four services on loopback, print their addresses, and stop them on Ctrl-C."""
    from hagd.extraction.plan import use_of  # noqa: PLC0415
    from hagd.pipeline.folder import RunFolder  # noqa: PLC0415
    from hagd.pipeline.shared_store import store_folder  # noqa: PLC0415

    swapped = use_of(use)
    kept = store_folder(store)
    lock = RunFolder.prepare(root, kept).lock()
    try:
        with _signals() as received, _children(root, kept, port, threads, swapped) as children:
            for child in children:
                child.address = _read_address(child, received)
            rows = [{"service": child.name, "address": child.address, "pid": child.process.pid} for child in children]
            if as_json:
                write_json("services", rows)
            else:
                write_table(["service", "address", "pid"], [list(row.values()) for row in rows])
            say("stop with Ctrl-C")
            code = _watch(children, received)
        badly = [child for child in children if child.process.returncode != 0]
        for child in badly:
            say(f"the {child.name} service ended with exit code {child.process.returncode}")
        code = EXIT_FAILED if badly else code
    finally:
        lock.release()
    raise typer.Exit(code)


@contextlib.contextmanager
def _signals() -> Generator[list[int]]:
    """Collect SIGINT and SIGTERM instead of raising, so that stopping the children cannot be interrupted half-way."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _children(
    root: Path, store: Path | None, port: int, threads: int | None, swapped: Mapping[str, str]
) -> Generator[list[Child]]:
    """Start the services; end every one of them on the way out, by its process id."""
    children: list[Child] = []
    try:
        for number, name in enumerate(SERVICES):
            listen = f"127.0.0.1:{port + number if port else 0}"
            arguments = ["--root", str(root), "--log", "sqlite", "--listen", listen, "--until-eof"]
            # Whoever presses Ctrl-C wants an end now; the next `up` goes on with what was begun.
            arguments += ["--drain-seconds", "0"]
            arguments += ["--store", str(store)] if store else []
            arguments += ["--threads", str(threads)] if threads else []
            if any(place in swapped for place in PLACES[name]):
                arguments += ["--stages", ",".join(swapped.get(place, place) for place in PLACES[name])]
            command = [sys.executable, "-m", f"hagd_{name}", *arguments]
            # Their own session: Ctrl-C reaches this process alone, which then stops them in order.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=dict(os.environ)
            )
            children.append(Child(name, process))
        yield children
    finally:
        _stop(children)


def _read_address(child: Child, received: list[int]) -> str:
    """Wait for the line with which a service says that it serves.

    Raises:
        UnavailableError: the service ended instead; its reason stands on stderr.
        KeyboardInterrupt: a signal came first.
    """
    out = child.process.stdout
    while out is not None and not select.select([out], [], [], _LOOK_SECONDS)[0]:
        if received:
            raise KeyboardInterrupt
    line = out.readline() if out is not None else b""
    if not line:
        code = child.process.wait()
        raise UnavailableError(
            f"the {child.name} service ended at its start with exit code {code}", "its last lines above say why"
        )
    return str(json.loads(line)["address"])


def _watch(children: list[Child], received: list[int]) -> int:
    """Wait for a signal, or for a child that ends by itself; give the exit code."""
    sleeper = threading.Event()
    while not received:
        for child in children:
            code = child.process.poll()
            if code is not None:
                say(f"the {child.name} service is gone; stopping the others")
                return EXIT_FAILED
        sleeper.wait(_LOOK_SECONDS)
    say("stopping")
    return EXIT_OK


def _stop(children: list[Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    for child in children:
        try:
            child.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say(f"the {child.name} service does not stop; killing process {child.process.pid}")
            child.process.kill()
            child.process.wait()
        for stream in (child.process.stdin, child.process.stdout):
            if stream is not None:
                stream.close()


@with_settings
@with_security
def submit(
    settings: "Settings",
    security: "ClientSecurity",
    address: AddressOption = f"127.0.0.1:{FIRST_PORT}",
    request_id: Annotated[
        str | None, typer.Option("--id", help="Name of the request; by default one that the settings give.")
    ] = None,
    use: UseOption = [],  # noqa: B006  # typer copies it
    kafka: Annotated[
        str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Ask over Kafka alone, whoever works it off.")
    ] = None,
    lane: LaneOption = "interactive",
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Send an extraction to running services. The same request again gives the same run."""
    from hagd.cli.runs import write_run  # noqa: PLC0415
    from hagd.extraction.plan import PRINCIPAL, build_plan, default_folder, use_of  # noqa: PLC0415
    from hagd.extraction.running import StageProgress  # noqa: PLC0415
    from hagd.pipeline.request import Request  # noqa: PLC0415
    from hagd.telemetry.progress import progress_view  # noqa: PLC0415
    from hagd.telemetry.tracing import span  # noqa: PLC0415

    plan = build_plan(settings, use=use_of(use))
    name = request_id or re.sub(r"[^a-z0-9_.-]+", "-", default_folder(settings, plan).name.lower()).strip("-.")
    request = Request(PRINCIPAL, name, plan, lane=lane)
    with span("hagd submit"), _client(address, kafka, security) as client:
        state = client.submit(request)
        if not quiet:
            say(f"run {state.run_id}")
        if watch:
            view = progress_view([entry.stage_id for entry in plan], quiet=quiet)
            progress = StageProgress([entry.stage_id for entry in plan], view)
            with view:
                state = client.watch(state.run_id, progress.update)
                progress.end(state)
            state.raise_for_failure()
    write_run(state, as_json=as_json)
    raise typer.Exit(_exit_of(state.outcome.status if state.outcome else None, VERDICT_EXITS))


def _client(address: str, kafka: str | None, security: "ClientSecurity") -> "StageClient | KafkaClient":
    """Give who carries the request: a service, or Kafka alone."""
    if kafka is None:
        from hagd.rpc.client import StageClient  # noqa: PLC0415

        return StageClient(address, security=security)
    try:
        from hagd.rpc.kafka_client import KafkaClient  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"the client of Kafka cannot be loaded: {error}", "pip install 'hagd[kafka]'") from error
    return KafkaClient(kafka_settings(kafka))


def _exit_of(status: str | None, exits: Mapping[str, int]) -> int:
    return EXIT_OK if status is None else exits.get(status, EXIT_OK)
