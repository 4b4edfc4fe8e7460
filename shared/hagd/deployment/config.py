"""The settings of a service as frozen values, contradictions refused before anything is opened."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from hagd.artifacts.leases import TIME_TO_LIVE_SECONDS
from hagd.deployment.security import SecurityConfig, security_of
from hagd.deployment.settings import ServiceSettings
from hagd.errors import UsageError
from hagd.events.kafka.settings import KafkaSettings
from hagd.execution.ray.settings import RaySettings
from hagd.execution.selection import ExecutorSettings

_GIB: Final = 2**30
S3_SCHEME: Final = "s3:"
DRAIN: Final = timedelta(seconds=20)


@dataclass(frozen=True)
class S3Place:
    """A store in a bucket."""

    location: str
    """`s3:http://host:port/bucket[/folder]`"""
    region: str = "us-east-1"
    ca_file: Path | None = None
    """Certificates to trust; those of the system when None."""

    def environment(self) -> dict[str, str]:
        """Give the variables by which a worker process opens the same store from its location."""
        found = {"HAGD_S3_REGION": self.region}
        return found | ({"HAGD_S3_CA_FILE": str(self.ca_file)} if self.ca_file else {})


@dataclass(frozen=True)
class Places:
    """Where log, store and run state are.

    Raises:
        UsageError: one of them is nowhere.
    """

    root: Path | None = None
    """The folder of all that is not elsewhere, shared by the services of a machine."""
    store: Path | S3Place | None = None
    """Artifacts; inside `root` when None."""
    kafka: KafkaSettings | None = None
    """The event log; a file in `root` when None."""

    def __post_init__(self) -> None:
        if self.root is None and self.kafka is None:
            raise UsageError("the event log is nowhere", "give --root for a file in a folder, or --log kafka")
        if self.root is None and self.store is None:
            raise UsageError("the artifacts are nowhere", "give --root or --store")


@dataclass(frozen=True)
class ServiceConfig:
    """How one service process runs."""

    places: Places
    """Where log, store and run state are."""
    listen: str
    """`host:port`; port 0 takes a free one."""
    threads: int | None = None
    """CPU threads of each worker; all that may be used, shared out, when None."""
    stages: tuple[str, ...] = ()
    """Installed stages to run in place of the service's own; empty for its own."""
    until_eof: bool = False
    """Stop when stdin ends, so that no service outlives the process that started it."""
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)
    """Where tasks run, and how many at a time."""
    reflection: bool = True
    """Whether callers may ask which services and messages there are."""
    stream_runs: int = 256
    """Unfinished runs of one stream, after which the stream is read no further."""
    principal_runs: int | None = None
    """Unfinished runs that a principal may have at once; no limit when None."""
    drain: timedelta = DRAIN
    """How long tasks at work may go on after the service was asked to stop."""
    wait: timedelta = timedelta(0)
    """How long to wait at the start for a log or a store that does not answer yet."""
    lease_seconds: float = TIME_TO_LIVE_SECONDS
    """After this silence a task is taken over by another service."""
    metrics: str = ""
    """`host:port`, or a port of loopback, where Prometheus reads this process; port 0 takes a free one, "" none."""
    security: SecurityConfig = field(default_factory=SecurityConfig)
    """Whom the service lets in, and how much at once."""


def config_of(settings: ServiceSettings) -> ServiceConfig:
    """Give what the settings say.

    Raises:
        UsageError: they contradict each other, or name what cannot be.
    """
    return ServiceConfig(
        places_of(settings),
        settings.listen,
        settings.threads,
        tuple(name for name in settings.stages.split(",") if name),
        settings.until_eof,
        _executor(settings),
        settings.reflection,
        settings.stream_runs,
        settings.principal_runs,
        timedelta(seconds=settings.drain_seconds),
        timedelta(seconds=settings.wait_seconds),
        settings.lease_seconds,
        settings.metrics,
        security_of(settings),
    )


def places_of(settings: ServiceSettings) -> Places:
    """Give where the settings say that log, store and run state are; errors as in `config_of`."""
    return Places(settings.root, store_of(settings), kafka_of(settings) if settings.log == "kafka" else None)


def kafka_of(settings: ServiceSettings) -> KafkaSettings:
    """Give the Kafka cluster of the settings, whether or not it is where the log is.

    Raises:
        UsageError: no servers are named.
    """
    if not settings.kafka_servers:
        raise UsageError("no Kafka servers were given", "give them as host:port, or set HAGD_KAFKA_SERVERS")
    return KafkaSettings(
        settings.kafka_servers,
        settings.kafka_group_prefix,
        security=settings.kafka_security,
        mechanism=settings.kafka_mechanism,
        ca_file=settings.kafka_ca_file,
        cert_file=settings.kafka_cert_file,
        key_file=settings.kafka_key_file,
        session_timeout_seconds=settings.session_timeout_seconds,
    )


def store_of(settings: ServiceSettings) -> Path | S3Place | None:
    """Give where the settings say that artifacts are; None for inside the root."""
    if settings.store is None:
        return None
    if settings.store.startswith(S3_SCHEME):
        return S3Place(settings.store, settings.s3_region, settings.s3_ca_file)
    return Path(settings.store.removeprefix("file:"))


def _executor(settings: ServiceSettings) -> ExecutorSettings:
    if settings.executor != "ray":
        return ExecutorSettings(settings.executor, settings.workers, device=settings.device)
    memory = None if settings.ray_memory_gib is None else int(settings.ray_memory_gib * _GIB)
    cpus = float(settings.threads or 1) if settings.ray_cpus is None else settings.ray_cpus
    idle_time = timedelta(seconds=settings.ray_idle_seconds)
    pool = RaySettings(
        settings.ray_address,
        settings.workers,
        cpus,
        settings.ray_gpus,
        memory,
        idle_time,
        device=settings.device,
    )
    return ExecutorSettings("ray", settings.workers, pool)
