"""Far more requests than a slow stage can take: it takes as many as it has workers, and holds no more in memory."""

import threading
import time
from contextlib import ExitStack
from typing import Final

from benchmarks.cluster.place import Place
from benchmarks.cluster.services import Service, running_service
from benchmarks.cluster.stages import JUDGE, WORK
from benchmarks.runtime.journal import most_at_once, read_journal
from benchmarks.runtime.traffic import Facts, announce_all, create_all, request_of
from benchmarks.tables import Row
from hagd.events.topics import fact_topic
from hagd.pipeline.request import Request

REQUESTS: Final = 10_000
CAPACITY: Final = 2
STANDS_SECONDS: Final = 75.0
_WAIT_SECONDS: Final = 0.5
_WARM: Final = 8
_LOOK_SECONDS: Final = 0.5
_MIB: Final = 2**20


def measure(place: Place, requests: int = REQUESTS) -> list[Row]:
    """Warm the services, send the burst, look at them while it stands."""
    bucket = place.bucket()
    store, log = place.open_store(bucket), place.open_log()
    journal = place.folder / "journal"

    def request(name: str, number: int) -> Request:
        config = {"name": f"{name}-{number}", "wait_seconds": _WAIT_SECONDS, "journal": str(journal)}
        return request_of(f"{name}-{number}", config)

    settings = ("--workers", str(CAPACITY))
    with ExitStack() as running, Facts(place.kafka, fact_topic(WORK.id)) as facts:
        services = [
            running.enter_context(running_service(name, place.folder, place.environment(bucket), *arguments))
            for name, arguments in {
                "transcoder": ("--stages", JUDGE.id),
                "verification": ("--stages", WORK.id, *settings),
            }.items()
        ]
        warm = [request("warm", number) for number in range(_WARM)]
        warm_ids = create_all(warm, store)
        announce_all(warm_ids, warm, log)
        facts.await_all(warm_ids, 60.0)
        before = [service.rss_bytes() for service in services]
        burst = [request("burst", number) for number in range(requests)]
        run_ids = create_all(burst, store)
        sender = threading.Thread(target=announce_all, args=(run_ids, burst, log))
        sender.start()
        sizes = _watch(services)
        sender.join()
        done = facts.count() - _WARM
    log.close()
    changes = [max(abs(size / base - 1) for size in seen) for base, seen in zip(before, sizes, strict=True)]
    shown = ", ".join(
        f"{service.name} {base / _MIB:.0f} -> {min(seen) / _MIB:.0f} to {max(seen) / _MIB:.0f} MiB"
        for service, base, seen in zip(services, before, sizes, strict=True)
    )
    note = f"of {requests} requests, {done} were done in {STANDS_SECONDS:.0f} s"
    return [
        Row("burst: tasks at once", most_at_once(read_journal(journal)), CAPACITY, at_most=True, note=note),
        Row("burst: change of RSS, from before it", max(changes), 0.1, at_most=True, note=shown),
    ]


def _watch(services: list[Service]) -> list[list[int]]:
    """Give the sizes of each service while the backlog stands."""
    sizes: list[list[int]] = [[] for _ in services]
    end = time.monotonic() + STANDS_SECONDS
    while time.monotonic() < end:
        for service, seen in zip(services, sizes, strict=True):
            seen.append(service.rss_bytes())
        time.sleep(_LOOK_SECONDS)
    return sizes
