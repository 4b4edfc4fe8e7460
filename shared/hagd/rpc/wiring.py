"""What the bootstraps of the four services have in common: arguments, the embedded adapters, the servicers."""

import argparse
import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import grpc
import structlog
from google.longrunning import operations_pb2_grpc

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable
from hagd.artifacts.store import ArtifactStore
from hagd.errors import HagdError, UsageError
from hagd.events.log import EventLog
from hagd.events.sqlite import SqliteEventLog
from hagd.execution.executor import Executor
from hagd.execution.selection import ExecutorSettings, add_executor_options, executor_of, open_executor
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.request import Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.shared_store import store_folder
from hagd.pipeline.stages import GROUP, find_stage
from hagd.pipeline.state import RunState
from hagd.pipeline.submission import announce, submit
from hagd.rpc.hosting import StageHost
from hagd.rpc.operations import OperationsServicer
from hagd.rpc.run_service import RunService
from hagd.rpc.server import StageServer
from hagd.telemetry.logs import configure_logging

OPERATIONS: Final = "google.longrunning.Operations"


@dataclass(frozen=True)
class ServiceConfig:
    """How one service process runs."""

    root: Path
    """The folder of log, store and runs, shared by all services of a machine."""
    listen: str
    """`host:port`; port 0 takes a free one."""
    store: Path | None = None
    """Folder of artifacts shared with other roots; inside `root` when None."""
    threads: int | None = None
    """CPU threads of each worker; all that may be used, shared out, when None."""
    stages: tuple[str, ...] = ()
    """Installed stages to run in place of the service's own; empty for its own."""
    until_eof: bool = False
    """Stop when stdin ends, so that no service outlives the process that started it."""
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    """Where tasks run, and how many at a time."""


def parse_arguments(program: str, port: int, arguments: Sequence[str] | None = None) -> ServiceConfig:
    """Read the command line of a service; a missing option is looked for as HAGD_ROOT, HAGD_LISTEN and so on."""
    environment = os.environ
    threads = environment.get("HAGD_THREADS")
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--root", type=Path, default=environment.get("HAGD_ROOT"), help="folder of log, store and runs")
    parser.add_argument("--store", help="folder of artifacts shared with other roots; inside the root by default")
    parser.add_argument("--listen", default=environment.get("HAGD_LISTEN", f"127.0.0.1:{port}"), help="host:port")
    parser.add_argument("--threads", type=int, default=int(threads) if threads else None, help="threads of a worker")
    add_executor_options(parser, environment)
    parser.add_argument("--stages", default="", help="installed stages to run in place of its own, comma-separated")
    parser.add_argument("--until-eof", action="store_true", help="stop when stdin ends")
    given = parser.parse_args(arguments)
    if given.root is None:
        parser.error("--root or HAGD_ROOT is needed")
    try:
        store = store_folder(given.store)
        executor = executor_of(given, given.threads)
    except UsageError as error:
        parser.error(f"{error.message}: {error.hint}")
    stages = tuple(name for name in given.stages.split(",") if name)
    return ServiceConfig(Path(given.root), given.listen, store, given.threads, stages, given.until_eof, executor)


@dataclass(frozen=True)
class Wiring:
    """The embedded adapters of one service process over a shared folder."""

    store: ArtifactStore
    runs: RunStore
    log: EventLog
    executor: Executor
    workers: int = 1
    """Tasks at a time, each with a loop of its own for every stage."""

    @staticmethod
    def open(config: ServiceConfig) -> "Wiring":
        """Open log and store of the folder, making them when they are missing.

        Raises:
            NotARunError: the folder holds something else.
            StoreFullError, UnavailableError, CorruptArtifactError: the folder, its store or its log.
            UsageError: an executor that is not installed.
        """
        folder = RunFolder.prepare(config.root, config.store)
        store, runs = folder.open_store(), folder.open_runs()
        log = SqliteEventLog(folder.log_path)
        executor = open_executor(config.executor, config.threads, folder.worker_log_path)
        return Wiring(store, runs, log, executor, config.executor.workers)

    def submit(self, request: Request) -> RunState:
        """Write a request and its event; a run that failed or was cancelled is opened again."""
        before = set(self.runs.list())
        run_id = submit(request, self.runs.store, self.log)
        state = self.runs.get(run_id)
        if run_id in before and state.outcome is not None and state.outcome.status in ("failed", "cancelled"):
            generation = self.runs.reopen(run_id, after=state.generation)
            announce(run_id, generation, request, self.log)
            return self.runs.get(run_id)
        return state

    def service(self, stage_ids: Sequence[str]) -> RunService:
        """Give what the servicers of these stages answer from."""
        stages = {stage_id: find_stage(stage_id) for stage_id in stage_ids}
        return RunService(self.runs, self.log, self.submit, stages)

    def host(
        self, name: str, service: RunService, servicer_name: str, register: Callable[[grpc.aio.Server], None]
    ) -> StageHost:
        """Give the process of a service: loops of its stages, its servicer, and operations over all runs."""
        stop = threading.Event()
        clock = SystemClock()
        loops = [
            StageLoop(
                spec, self.log, self.store, self.runs, self.executor, LeaseTable(self.store, clock), clock, stop=stop
            )
            for spec in service.stages.values()
            for _ in range(self.workers)
        ]

        def register_all(server: grpc.aio.Server) -> None:
            register(server)
            operations: Any = OperationsServicer(service)
            operations_pb2_grpc.add_OperationsServicer_to_server(operations, server)

        server = StageServer(register_all, [servicer_name, OPERATIONS])
        return StageHost(name, server, loops, self.log, self.executor)

    def router(self) -> RequestRouter:
        """Give what hands requests to the first stage of their plan; the first service runs it."""
        return RequestRouter(self.log, self.runs, InstalledStages())


class InstalledStages(Mapping[str, StageSpec]):
    """The installed stages, each loaded when it is asked for: one that is broken harms only those who ask for it."""

    def __getitem__(self, stage_id: str) -> StageSpec:
        if stage_id not in set(self):
            raise KeyError(stage_id)
        return find_stage(stage_id)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({point.name for point in entry_points(group=GROUP)}))

    def __len__(self) -> int:
        return len(list(iter(self)))


def run_service(name: str, config: ServiceConfig, bootstrap: Callable[[ServiceConfig], StageHost]) -> int:
    """Run a service to its end; give the exit code. Errors at the start are told on stderr."""
    configure_logging(json_lines=True, service=name)
    try:
        return asyncio.run(_serve(config, bootstrap))
    except HagdError as error:
        structlog.get_logger("hagd").error(error.message, hint=error.hint, kind=error.kind)
        return error.exit_code


async def _serve(config: ServiceConfig, bootstrap: Callable[[ServiceConfig], StageHost]) -> int:
    # Inside the event loop, because grpc.aio binds a server to the loop that runs when it is made.
    host = bootstrap(config)
    return await host.serve(config.listen, until_eof=config.until_eof)
