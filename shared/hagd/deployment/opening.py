"""Opening log, store and run state, checked: whoever has opened them knows that they answer and can carry a service.

A store must hold to the conditions of writes, on which leases and first manifests rest, and every topic that a service
reads or writes must be there. A service that found out later would have taken requests by then.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from hagd.artifacts.clock import Clock, SystemClock
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import ArtifactStore
from hagd.deployment.config import Places, S3Place
from hagd.errors import UnavailableError, UsageError
from hagd.events.kafka.settings import KafkaSettings
from hagd.events.log import EventLog, ReadRecord
from hagd.events.sqlite import SqliteEventLog
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.runs import RunStore
from hagd.telemetry.metrics import Meter

T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0
_LOG_FILE: Final = "events.sqlite"


@dataclass(frozen=True)
class Opened:
    """What a service works with."""

    store: ArtifactStore
    runs: RunStore
    log: EventLog
    worker_log_path: Path | None
    """Where worker processes write what they print; None when the machine has no place for it."""


def open_places(
    places: Places,
    stages: Iterable[str],
    *,
    routes: bool,
    wait: timedelta = timedelta(0),
    clock: Clock | None = None,
    readers: Mapping[str, ReadRecord] | None = None,
    meter: Meter | None = None,
) -> Opened:
    """Open everything; what does not answer is asked again until `wait` is over.

    Args:
        places: where everything is.
        stages: the stages that will be worked off, whose topics must be there.
        routes: whether requests will be taken in, which has topics too.
        wait: how long to be patient.
        clock: time, for that.
        readers: by topic, what reads it where other systems write to it too.
        meter: keeps what the log counts; nothing is kept when None.

    Raises:
        UnavailableError: log or store does not answer, or a topic is missing.
        InvalidInputError: the store ignores the conditions of writes.
        UsageError: an adapter that is not installed.
        NotARunError, StoreFullError, CorruptArtifactError: the folder.
    """
    clock = clock or SystemClock()
    deadline = clock.monotonic() + wait.total_seconds()
    store, runs, worker_log = _patient(lambda: _open_store(places), deadline, clock)
    log = _patient(lambda: _open_log(places, list(stages), routes, readers or {}, meter), deadline, clock)
    return Opened(store, runs, log, worker_log)


def open_existing(places: Places) -> Opened:
    """Open what services have made, to look at it and steer it: nothing is made, and no topic has to be there.

    Raises:
        NotARunError: the root is no folder of services or of a run.
        UnavailableError: log or store does not answer, or the bucket is not there.
        InvalidInputError: the store ignores the conditions of writes.
        UsageError: an adapter that is not installed.
    """
    store, runs, worker_log = _open_store(places, create=False)
    log = _open_file(places) if places.kafka is None else _kafka_log(places.kafka, {})
    return Opened(store, runs, log, worker_log)


def _patient(attempt: Callable[[], T], deadline: float, clock: Clock) -> T:
    while True:
        try:
            return attempt()
        except UnavailableError as error:
            left = deadline - clock.monotonic()
            if left <= 0:
                raise
            _LOG.warning("waiting %.0f s more: %s", left, error.message)
            clock.sleep(min(_LOOK_SECONDS, left))


def _open_store(places: Places, *, create: bool = True) -> tuple[ArtifactStore, RunStore, Path | None]:
    """Give artifacts, run state, and where workers may write their log. State lies in the store unless it has a root,
    and a store in a folder of its own is one that several roots share."""
    if isinstance(places.store, S3Place):
        store = open_s3(places.store, create=create)
        return store, RunStore(store), None
    if places.root is None:
        store = FilesystemStore(places.store or Path(), create=create)
        return store, RunStore(store), None
    folder = RunFolder.prepare(places.root, places.store) if create else RunFolder.open(places.root)
    return folder.open_store(create=create), folder.open_runs(create=create), folder.worker_log_path


def open_s3(place: S3Place, *, create: bool = True) -> ArtifactStore:
    """Open a bucket, and try its conditional writes.

    Raises:
        InvalidInputError: it ignores them, or the address is none.
        UnavailableError: it does not answer, or is not there and `create` is false.
        UsageError: the client is not installed.
    """
    try:
        # An extra, which takes a moment to load.
        from hagd.artifacts.s3 import S3Store  # noqa: PLC0415
        from hagd.artifacts.s3_client import S3Settings  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"the client of S3 cannot be loaded: {error}", "pip install 'hagd[s3]'") from error
    settings = replace(S3Settings.from_location(place.location), region=place.region, ca_file=place.ca_file)
    return S3Store(settings, create=create, probe=True)


def _open_log(
    places: Places, stages: list[str], routes: bool, readers: Mapping[str, ReadRecord], meter: Meter | None
) -> EventLog:
    if places.kafka is not None:
        return _open_kafka(places.kafka, stages, routes, readers, meter)
    return _open_file(places)


def _open_file(places: Places) -> EventLog:
    root = places.root or Path()
    root.mkdir(parents=True, exist_ok=True)
    return SqliteEventLog(root / _LOG_FILE)


def _open_kafka(
    settings: KafkaSettings, stages: list[str], routes: bool, readers: Mapping[str, ReadRecord], meter: Meter | None
) -> EventLog:
    log = _kafka_log(settings, readers, meter)
    # Part of the same extra, which is there by now.
    from hagd.events.kafka.admin import require_topics  # noqa: PLC0415

    require_topics(settings, stages, routes=routes)
    return log


def _kafka_log(settings: KafkaSettings, readers: Mapping[str, ReadRecord], meter: Meter | None = None) -> EventLog:
    try:
        # An extra, which takes a moment to load.
        from hagd.events.kafka.log import KafkaEventLog  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"the client of Kafka cannot be loaded: {error}", "pip install 'hagd[kafka]'") from error
    return KafkaEventLog(settings, readers=readers, meter=meter)
