"""One stage with one worker and with more: as many requests, as one divided request, and waiting ones.

Each number of workers is a service of the stage of its own; everything else runs on, which is looked at. Bare processes
that do nothing but the work say what two processors of this machine give at best.
"""

import multiprocessing
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from typing import Any, Final, Literal

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

Executor = Literal["process", "ray"]
TASK_SECONDS: Final = 0.75
TASKS: Final = 32
SHARDS: Final = 64
WAITERS: Final = 16
WAITS_EACH: Final = 6
_PATIENCE_SECONDS: Final = 300.0


@dataclass
class _Bench:
    """What the measurements of one place share."""

    place: Place
    bucket: S3Settings
    store: S3Store
    log: KafkaEventLog
    facts: Facts
    others: Service
    """What is not scaled, and must not notice."""
    batches: int = field(default=0)

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
        environment = self.place.environment(self.bucket)
        settings = ("--stages", WORK.id, "--workers", str(workers), *arguments)
        with running_service("verification", self.place.folder, environment, *settings) as service:
            self.seconds(2 * workers, {"wait_seconds": 0.3})
            yield service


def measure(place: Place) -> list[Row]:
    """Measure bare processes, then the stage in each way."""
    rounds = _calibrated(TASK_SECONDS)
    bare = _bare_seconds(1, rounds) / _bare_seconds(2, rounds)
    bucket = place.bucket()
    store, log = place.open_store(bucket), place.open_log()
    rows = [Row("scaling: two bare processes beside one", bare, note=f"tasks of {TASK_SECONDS} s, one thread each")]
    with (
        running_service("transcoder", place.folder, place.environment(bucket), "--stages", JUDGE.id) as others,
        Facts(place.kafka, fact_topic(WORK.id)) as facts,
    ):
        bench = _Bench(place, bucket, store, log, facts, others)
        rows += _process(bench, rounds, bare)
        rows += _ray(bench, rounds, bare)
        restarted = others.process.poll() is not None
    log.close()
    rows.append(Row("scaling: other services restarted", float(restarted), 0, at_most=True))
    return rows


def _process(bench: _Bench, rounds: int, bare: float) -> list[Row]:
    speedups, kept = _speedups(bench, rounds)
    with bench.scaled(1):
        one = bench.seconds(WAITERS, {"wait_seconds": 1.0})
    with bench.scaled(WAITERS):
        many = bench.seconds(WAITERS * WAITS_EACH, {"wait_seconds": 1.0})
    gain = one * WAITS_EACH / many
    note = f"{WAITERS} tasks in {one:.1f} s with one, {WAITERS * WAITS_EACH} in {many:.1f} s with {WAITERS}"
    return [
        *_compared("process", speedups, bare),
        Row("scaling: first worker kept when the second came", float(kept), 1),
        Row("scaling: 1 to 16 workers on a wait of 1 s", gain, 14, note=note),
    ]


def _ray(bench: _Bench, rounds: int, bare: float) -> list[Row]:
    with running_ray(bench.place.folder, bench.place.environment(bench.bucket)) as address:
        arguments = ("--executor", "ray", "--ray-address", address, "--ray-cpus", "1")
        speedups, _ = _speedups(bench, rounds, *arguments)
    return _compared("Ray", speedups, bare)


def _compared(name: str, speedups: dict[str, float], bare: float) -> list[Row]:
    return [
        Row(f"scaling: {name}, {what}, speed-up beside bare", speedup / bare, 0.9, note=f"{speedup:.3f} times")
        for what, speedup in speedups.items()
    ]


def _speedups(bench: _Bench, rounds: int, *arguments: str) -> tuple[dict[str, float], bool]:
    """Give how much faster two workers are in each way of asking, and whether the first outlived the second's start."""
    found: dict[int, dict[str, float]] = {}
    kept = False
    for workers in (1, 2):
        with bench.scaled(workers, *arguments) as service:
            before = service.workers()
            found[workers] = {
                f"{TASKS} runs": bench.seconds(TASKS, {"rounds": rounds}),
                f"one run of {SHARDS} shards": bench.seconds(1, {"rounds": rounds, "shards": SHARDS}),
            }
            kept = kept or bool(before & service.workers())
    return {what: found[1][what] / found[2][what] for what in found[1]}, kept


def _calibrated(seconds: float) -> int:
    """Give the rounds that take about so long here."""
    rounds = 20_000
    began = time.monotonic()
    chain("calibration", rounds)
    return int(rounds * seconds / (time.monotonic() - began))


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
