"""One soak from its first process to its last: start, ask, wait, end; what it gives is for the auditor."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kafka import KafkaProducer
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from benchmarks.soak.caller import Caller
from benchmarks.soak.chaos import Chaos
from benchmarks.soak.checkpoints import CheckpointWatch
from benchmarks.soak.cluster import BUCKET, Cluster, running_cluster
from benchmarks.soak.evidence import Evidence, gather
from benchmarks.soak.faults import Faults
from benchmarks.soak.journal import Journal
from benchmarks.soak.poison import Poison, draw_poison
from benchmarks.soak.settings import Settings
from benchmarks.soak.stages import PROTOCOL, install
from benchmarks.soak.supervisor import Supervisor
from benchmarks.soak.timetable import draw_timetable
from benchmarks.soak.undisturbed import Undisturbed, run_undisturbed
from benchmarks.soak.workload import Asked, draw_workload
from hagd.events.topics import fact_topic
from servers.process import free_ports

SERVICES: Final = {
    "transcoder": ("subject", "transcoder"),
    "coarsening": ("coarsening",),
    "traversal": ("traversal",),
    "verification": ("verification",),
}
_LOOK_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 60.0
"""How long the last acknowledgements and dead letters may take once every run has ended."""


@dataclass(frozen=True)
class Soaked:
    """What a soak leaves."""

    asked: list[Asked]
    poison: list[Poison]
    undisturbed: Mapping[str, Undisturbed]
    evidence: Evidence
    journal: Journal
    leftovers: list[str]
    """Processes that outlived it."""
    seconds: float

    def expectation(self) -> dict[str, Any]:
        """Give what the auditor may know."""
        runs = {it.run_id: it for it in self.asked}.values()
        return {
            "runs": [
                {
                    "principal": it.request.principal,
                    "request_id": it.request.request_id,
                    "content": it.content,
                    "cancelled": it.cancelled,
                    "topic": fact_topic(it.request.plan[-1].stage_id),
                }
                for it in runs
            ],
            "poison": [
                {"kind": it.kind, "topic": it.topic, "digest": it.digest, "run_id": it.run_id} for it in self.poison
            ],
            "undisturbed": {content: asdict(result) for content, result in self.undisturbed.items()},
        }


def soak(settings: Settings, folder: Path) -> Soaked:
    """Run a soak in a folder, which is emptied first; no process of it is left, whatever happens.

    Raises:
        NoServerError: Kafka or MinIO was not obtained.
    """
    begun = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    faults = Faults(folder.absolute())
    environment = install(faults.folder / "installed")
    asked, poison = draw_workload(settings), draw_poison(settings)
    _say(f"{len({it.run_id for it in asked})} runs and {len(poison)} messages of poison; undisturbed first")
    undisturbed = run_undisturbed(asked, faults.folder / "undisturbed", environment)
    with ExitStack() as stack:
        stages = [*PROTOCOL, *(stage for own in SERVICES.values() for stage in own)]
        cluster = stack.enter_context(running_cluster(faults.folder, stages, settings.partitions))
        supervisor = _supervisor(settings, cluster, faults, environment)
        stack.callback(supervisor.close)
        supervisor.start()
        _say(f"{len(supervisor.services)} services serve after {time.monotonic() - begun:.0f} s")
        watch = CheckpointWatch(cluster.bucket(), faults.journal)
        stack.callback(watch.close)
        watch.start()
        chaos = Chaos(settings, cluster, supervisor, faults)
        stack.callback(chaos.close)
        chaos.start(draw_timetable(settings), settings.minutes * 60)
        _ask(settings, asked, poison, cluster, supervisor)
        _wait(settings, asked, cluster.bucket())
        chaos.close()
        if chaos.broken:
            raise chaos.broken[0]
        _settle(cluster, stages)
        supervisor.close()
        _say("all services have ended; reading what they left")
        evidence = gather(cluster.kafka.address, cluster.bucket(), BUCKET)
    return Soaked(
        asked, poison, undisturbed, evidence, faults.journal, supervisor.leftovers(), time.monotonic() - begun
    )


def _supervisor(settings: Settings, cluster: Cluster, faults: Faults, environment: Mapping[str, str]) -> Supervisor:
    more = {
        "HAGD_SESSION_TIMEOUT_SECONDS": str(settings.session_seconds),
        "HAGD_LEASE_SECONDS": str(settings.lease_seconds),
        "HAGD_WAIT_SECONDS": "60",
    }
    supervisor = Supervisor(faults, {**environment, **cluster.environment, **more})
    ports = iter(free_ports((len(SERVICES) + 1) * settings.replicas))
    for number in range(settings.replicas):
        # The service of the first stage, whose API takes any plan that begins with a stage that it runs.
        supervisor.add(f"protocol-{number}", "transcoder", next(ports), "--stages", ",".join(PROTOCOL))
        for service in SERVICES if settings.extractions else ():
            supervisor.add(f"{service}-{number}", service, next(ports))
    return supervisor


def _ask(
    settings: Settings, asked: Sequence[Asked], poison: Sequence[Poison], cluster: Cluster, supervisor: Supervisor
) -> None:
    """Send everything at its time."""
    addresses = {
        name: [it.address for it in supervisor.services if it.name.startswith(name)]
        for name in ("protocol", "transcoder")
    }
    callers = {name: Caller(found) for name, found in addresses.items()}
    begun = time.monotonic()
    try:
        for it in sorted([*asked, *poison], key=lambda it: it.at):
            time.sleep(max(0.0, begun + it.at * settings.minutes * 60 - time.monotonic()))
            if isinstance(it, Poison):
                if it.request is None:
                    _write(cluster.kafka.address, it)
                else:
                    callers["protocol"].submit(it.request)
                continue
            caller = callers["transcoder" if it.is_real else "protocol"]
            caller.submit(it.request)
            if it.cancelled:
                caller.cancel(it.run_id)
    finally:
        for caller in callers.values():
            caller.close()
    _say(f"everything was asked for after {time.monotonic() - begun:.0f} s")


def _write(servers: str, poison: Poison) -> None:
    """Write a message as any program may, once the broker takes it."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while True:
        try:
            producer = KafkaProducer(bootstrap_servers=servers, metrics_enabled=False)
        except Exception:
            # The client has many names for a broker that is away.
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
            continue
        try:
            producer.send(poison.topic, poison.value).get(_QUIET_SECONDS)
            return
        finally:
            producer.close()


def _wait(settings: Settings, asked: Iterable[Asked], bucket: Minio) -> None:
    """Wait until every run has an outcome, or patience is at its end: the auditor names those that have none."""
    open_runs = {it.run_id for it in asked}
    deadline = time.monotonic() + settings.patience_minutes * 60
    while open_runs and time.monotonic() < deadline:
        # The store may be away for a moment.
        with suppress(MinioException, HTTPError, OSError):
            open_runs -= set(_ended(open_runs, bucket))
        # Hundreds of looks, which take from the same CPUs.
        time.sleep(_LOOK_SECONDS + 0.02 * len(open_runs))
    _say(f"{len(open_runs)} runs have no outcome" if open_runs else "every run has ended")


def _ended(run_ids: Iterable[str], bucket: Minio) -> Iterator[str]:
    for run_id in run_ids:
        try:
            bucket.stat_object(BUCKET, f"objects/runs/{run_id}/g0000/outcome")
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
        else:
            yield run_id


def _settle(cluster: Cluster, stages: Sequence[str]) -> None:
    """Wait until every record of a topic of work is acknowledged, but not for ever: the auditor tells what is not."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while (left := cluster.unfinished(stages)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    _say(f"{left} records of topics of work are not acknowledged" if left else "every record is acknowledged")


def _say(text: str) -> None:
    sys.stderr.write(f"soak: {text}\n")
    sys.stderr.flush()
