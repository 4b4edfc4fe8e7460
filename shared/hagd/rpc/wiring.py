"""What the bootstraps of the four services have in common: the opened adapters, the servicers, the loops."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.longrunning import operations_pb2_grpc

from hagd.artifacts.clock import SystemClock
from hagd.artifacts.leases import LeaseTable
from hagd.artifacts.store import ArtifactStore
from hagd.deployment.config import S3Place, ServiceConfig
from hagd.deployment.opening import open_places
from hagd.errors import UsageError
from hagd.events.log import EventLog
from hagd.execution.executor import Executor
from hagd.execution.selection import open_executor
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.control import RestWatch, StageControl
from hagd.pipeline.intake import PlanSettings
from hagd.pipeline.loop import StageLoop
from hagd.pipeline.places import Places
from hagd.pipeline.quotas import Quota
from hagd.pipeline.request import Request, run_id_of
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.runs import RunStore
from hagd.pipeline.stages import GROUP, find_stage
from hagd.pipeline.state import RunState
from hagd.pipeline.submission import open_again, submit
from hagd.pipeline.watch import StageWatch, declare_entry, declare_stage
from hagd.rpc.hosting import StageHost
from hagd.rpc.intake import request_readers
from hagd.rpc.operations import OperationsServicer
from hagd.rpc.run_service import RunService
from hagd.rpc.server import StageServer
from hagd.telemetry.metrics import Meter, SilentMeter
from hagd.telemetry.store import ObservedStore

if TYPE_CHECKING:
    from hagd.telemetry.prometheus import MetricsServer

OPERATIONS: Final = "google.longrunning.Operations"
_SPARE_LOOPS: Final = 3
"""By stage: at least so many requests beyond the workers are looked at, whose results may be there already; and as
many as there are workers, so that each has its next task while the result of its last one is announced (in the lane
`interactive`, which is all that they look at)."""


class InstalledStages(Mapping[str, StageSpec]):
    """The installed stages, each loaded when it is asked for: one that is broken harms only those who ask for it.

    What was loaded is remembered, because looking for entry points reads a file of every installed distribution.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, StageSpec] = {}

    def __getitem__(self, stage_id: str) -> StageSpec:
        if stage_id not in self._loaded:
            if stage_id not in set(self):
                raise KeyError(stage_id)
            self._loaded[stage_id] = find_stage(stage_id)
        return self._loaded[stage_id]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({point.name for point in entry_points(group=GROUP)}))

    def __len__(self) -> int:
        return len(list(iter(self)))


@dataclass(frozen=True)
class Wiring:
    """The adapters of one service process, and the stages that it works off."""

    config: ServiceConfig
    store: ArtifactStore
    runs: RunStore
    log: EventLog
    executor: Executor
    stages: Mapping[str, StageSpec]
    routes: bool = False
    """Whether it hands requests to the first stage of their plan."""
    meter: Meter = field(default_factory=SilentMeter)
    """Keeps what is counted here."""
    metrics: "MetricsServer | None" = None
    """Where Prometheus reads it; None when it was not asked for."""
    installed: InstalledStages = field(default_factory=InstalledStages)
    """Against which the plans of requests are checked."""

    @staticmethod
    def open(
        config: ServiceConfig,
        stages: tuple[str, ...],
        *,
        routes: bool = False,
        plan_settings: PlanSettings | None = None,
    ) -> "Wiring":
        """Open what the config names, checked; the service runs `stages` unless the config names others.

        Args:
            config: how the service runs.
            stages: its own stages.
            routes: whether it hands requests to the first stage of their plan.
            plan_settings: makes plans of what other systems ask for; None takes no requests but our own.

        Raises:
            UnknownNameError: a stage that is not installed.
            HagdError: as `open_places`.
            UsageError: an executor that is not installed.
        """
        specs = {stage_id: find_stage(stage_id) for stage_id in config.stages or stages}
        readers = request_readers(plan_settings) if plan_settings is not None else {}
        meter, metrics = open_meter(config.metrics)
        with ExitStack() as unfinished:
            if metrics is not None:
                unfinished.callback(metrics.close)
            opened = open_places(config.places, specs, routes=routes, wait=config.wait, readers=readers, meter=meter)
            place = config.places.store
            environment = place.environment() if isinstance(place, S3Place) else {}
            executor = open_executor(config.executor, config.threads, opened.worker_log_path, environment)
            unfinished.pop_all()
        store, runs = ObservedStore(opened.store, meter), RunStore(ObservedStore(opened.runs.store, meter))
        return Wiring(config, store, runs, opened.log, executor, specs, routes, meter, metrics)

    def submit(self, request: Request) -> RunState:
        """Write a request and its event; a run that failed or was cancelled is opened again."""
        known = self.runs.exists(run_id_of(request.principal, request.request_id))
        run_id = submit(request, self.runs.store, self.log, self.installed, self._quota())
        state = self.runs.get(run_id)
        if known and state.outcome is not None and state.outcome.status in ("failed", "cancelled"):
            return open_again(state, self.runs, self.log)
        return state

    def _quota(self) -> Quota | None:
        most = self.config.principal_runs
        return None if most is None else Quota(most)

    def service(self) -> RunService:
        """Give what the servicers of the stages answer from."""
        return RunService(self.runs, self.log, self.submit, self.stages)

    def host(
        self, name: str, service: RunService, servicer_name: str, register: Callable[[grpc.aio.Server], None]
    ) -> StageHost:
        """Give the process of a service: loops of its stages, its servicer, and operations over all runs."""

        def register_all(server: grpc.aio.Server) -> None:
            register(server)
            operations: Any = OperationsServicer(service)
            operations_pb2_grpc.add_OperationsServicer_to_server(operations, server)

        server = StageServer(
            register_all,
            [servicer_name, OPERATIONS],
            reflects=self.config.reflection,
            meter=self.meter,
            security=self.config.security,
        )
        router = RequestRouter(self.log, self.runs, self.installed, self.meter, self._quota())
        loops = self._loops()
        if self.routes:
            declare_entry(self.log, self.meter, SystemClock())
        return StageHost(
            name,
            server,
            loops,
            self.log,
            self.executor,
            router if self.routes else None,
            self.config.drain,
            self.metrics,
        )

    def _loops(self) -> list[StageLoop]:
        """Give a loop for every stage and every task that may run at a time, and a few beside."""
        stop, draining, clock = threading.Event(), threading.Event(), SystemClock()
        workers, loops = self.config.executor.workers, list[StageLoop]()
        # All stages share the workers: with places of one stage alone, a task would wait for one and hold its lease.
        places = Places(threading.Semaphore(workers))
        for spec in self.stages.values():
            rest = RestWatch(StageControl(self.store), spec.id, clock)
            watches = [StageWatch(self.meter, clock) for _ in range(workers + max(workers, _SPARE_LOOPS))]
            declare_stage(spec.id, watches, workers, self.log, self.meter, clock)
            for number, watch in enumerate(watches):
                leases = LeaseTable(
                    self.store,
                    clock,
                    time_to_live_seconds=self.config.lease_seconds,
                    on_takeover=partial(watch.took_over, spec.id),
                )
                parts = (spec, self.log, self.store, self.runs, self.executor, leases, clock)
                loop = StageLoop(*parts, stop=stop, draining=draining, watch=watch, places=places, rest=rest)
                loop.spare = number >= workers
                loops.append(loop)
        return loops


def open_meter(listen: str) -> "tuple[Meter, MetricsServer | None]":
    """Give what keeps the metrics of this process, and the port where they are read; nothing when `listen` is empty.

    Raises:
        UsageError: the address cannot be read, or what serves metrics is not installed.
        UnavailableError: the address cannot be bound.
    """
    if not listen:
        return SilentMeter(), None
    try:
        # An extra.
        from hagd.telemetry.prometheus import PrometheusMeter  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"metrics cannot be served: {error}", "pip install 'hagd[telemetry]'") from error
    meter = PrometheusMeter()
    return meter, meter.serve(listen)
