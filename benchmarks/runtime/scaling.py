"""One stage with one worker and with more: as many requests, as one divided request, and waiting ones.

Each number of workers is a service of the stage of its own; everything else runs on, which is looked at. Bare processes
that do nothing but the work say what two processors of this machine give at best.
"""

import math
import multiprocessing
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any, Final

from benchmarks.cluster.place import Place
from benchmarks.cluster.services import Service, running_service
from benchmarks.cluster.stages import JUDGE, WORK, chain
from benchmarks.runtime.ray_head import running_ray
from benchmarks.runtime.traffic import Facts, announce_all, create_all, request_of
from benchmarks.tables import Row
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import S3Settings
from hagd.events.kafka.log import KafkaEventLog
from hagd.events.topics import fact_topic

TASK_SECONDS: Final = 0.75
TASKS: Final = 32
SHARDS: Final = 64
WAITERS: Final = 16
WAITS_EACH: Final = 6
_PATIENCE_SECONDS: Final = 300.0
_CALIBRATIONS: Final = 7


@dataclass
class _Bench:
    """What the measurements of one place share."""

    place: Place
    bucket: S3Settings
    store: S3Store
    log: KafkaEventLog
    facts: Facts
    batches: int = field(default=0)

    @property
    def environment(self) -> dict[str, str]:
        """Give the settings of the services."""
        return self.place.environment(self.bucket)

    def seconds(self, count: int, config: dict[str, Any]) -> float:
        """Send requests, all at once; give the seconds until the last is announced."""
        self.batches += 1
        name = f"batch-{self.batches}"
        requests = [request_of(f"{name}-{it}", {**config, "name": f"{name}-{it}"}) for it in range(count)]
        run_ids = create_all(requests, self.store)
        began = announce_all(run_ids, requests, self.log)
        return self.facts.await_all(run_ids, _PATIENCE_SECONDS)[-1] - began

    @contextmanager
    def scaled(self, workers: int, *arguments: str) -> Generator[Service]:
        """Run the stage with so many workers, all of them warm."""
        settings = (*_settings(workers), *arguments)
        with running_service("verification", self.place.folder, self.environment, *settings) as service:
            self.seconds(2 * workers, {"wait_seconds": 0.3})
            yield service


def measure_process(place: Place) -> list[Row]:
    """Measure worker processes."""
    with _bench(place) as (bench, rounds, bare, rows):
        rows += _compared("process", _speedups(bench, rounds), bare)
        rows.append(Row("scaling: first worker kept when the second came", _is_kept(bench), 1))
        rows.append(_waiting(bench))
    return rows


def measure_ray(place: Place) -> list[Row]:
    """Measure actors of a Ray cluster of this machine."""
    with _bench(place) as (bench, rounds, bare, rows), running_ray(place.environment(bench.bucket)) as address:
        arguments = ("--executor", "ray", "--ray-address", address, "--ray-cpus", "1")
        rows += _compared("Ray", _speedups(bench, rounds, *arguments), bare)
    return rows


@contextmanager
def _bench(place: Place) -> Generator[tuple[_Bench, int, float, list[Row]]]:
    """Measure bare processes, then give what measures the stage: with the rounds of a task, and what they reached."""
    rounds = _calibrated(TASK_SECONDS)
    bare = _bare_seconds(1, rounds) / _bare_seconds(2, rounds)
    rows = [Row("scaling: two bare processes beside one", bare, note=f"tasks of {TASK_SECONDS} s, one thread each")]
    bucket = place.bucket()
    store, log = place.open_store(bucket), place.open_log()
    with (
        running_service("transcoder", place.folder, place.environment(bucket), "--stages", JUDGE.id) as others,
        Facts(place.kafka, fact_topic(WORK.id)) as facts,
    ):
        yield _Bench(place, bucket, store, log, facts), rounds, bare, rows
        restarted = others.process.poll() is not None
    log.close()
    rows.append(Row("scaling: other services restarted", float(restarted), 0, at_most=True))


def _waiting(bench: _Bench) -> Row:
    """Compare sixteen workers with one on tasks that wait."""
    with bench.scaled(1):
        one = bench.seconds(WAITERS, {"wait_seconds": 1.0})
    with bench.scaled(WAITERS):
        many = bench.seconds(WAITERS * WAITS_EACH, {"wait_seconds": 1.0})
    note = f"{WAITERS} tasks in {one:.1f} s with one, {WAITERS * WAITS_EACH} in {many:.1f} s with {WAITERS}"
    return Row("scaling: 1 to 16 workers on a wait of 1 s", one * WAITS_EACH / many, 14, note=note)


def _is_kept(bench: _Bench) -> bool:
    """Say whether a worker goes on when its service starts another."""
    with running_service("verification", bench.place.folder, bench.environment, *_settings(2)) as service:
        bench.seconds(1, {"wait_seconds": 0.1})
        first = service.workers()
        bench.seconds(2, {"wait_seconds": 2.0})
        return len(first) == 1 and first < service.workers()


def _compared(name: str, speedups: dict[str, float], bare: float) -> list[Row]:
    return [
        Row(f"scaling: {name}, {what}, speed-up beside bare", speedup / bare, 0.9, note=f"{speedup:.3f} times")
        for what, speedup in speedups.items()
    ]


def _speedups(bench: _Bench, rounds: int, *arguments: str) -> dict[str, float]:
    """Give how much faster two workers are than one, in each way of asking."""
    found: dict[int, dict[str, float]] = {}
    for workers in (1, 2):
        with bench.scaled(workers, *arguments):
            found[workers] = {
                f"{TASKS} runs": bench.seconds(TASKS, {"rounds": rounds}),
                f"one run of {SHARDS} shards": bench.seconds(1, {"rounds": rounds, "shards": SHARDS}),
            }
    return {what: found[1][what] / found[2][what] for what in found[1]}


def _settings(workers: int) -> tuple[str, ...]:
    return ("--stages", WORK.id, "--workers", str(workers))


def _calibrated(seconds: float) -> int:
    """Give the rounds that take about so long here."""
    rounds, fastest = 10_000, math.inf
    for _ in range(_CALIBRATIONS):
        began = time.monotonic()
        chain("calibration", rounds)
        fastest = min(fastest, time.monotonic() - began)
    return int(rounds * seconds / fastest)


def _bare_seconds(processes: int, rounds: int) -> float:
    """Let bare processes share the tasks; give the seconds until the last is done."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    running = [context.Process(target=_bare, args=(barrier, TASKS // processes, rounds)) for _ in range(processes)]
    for process in running:
        process.start()
    barrier.wait()
    began = time.monotonic()
    for process in running:
        process.join()
    return time.monotonic() - began


def _bare(barrier: Barrier, tasks: int, rounds: int) -> None:
    barrier.wait()
    for task in range(tasks):
        chain(f"bare-{task}", rounds)
