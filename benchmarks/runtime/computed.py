"""Requests whose results are there already: how long each takes at a steady rate, and how many pass at the most.

Two service processes, as they are deployed: the first takes requests in and works off stage `bench-work`, the second
`bench-judge`. The rival makes the calls of the same two processes, in as many threads.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import numpy as np
from kafka import KafkaProducer

from benchmarks.cluster.place import Place
from benchmarks.cluster.services import Service, running_service
from benchmarks.cluster.stages import JUDGE, STAGES, WORK
from benchmarks.runtime.bare import PREFIX, Server, prepare, running_bare, server_of
from benchmarks.runtime.calls import Hop, describe, record_hops
from benchmarks.runtime.traffic import Facts, announce_all, create_all, request_of
from benchmarks.tables import Row
from hagd.artifacts.manifests import Manifest, publish_manifest
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.s3_client import S3Settings
from hagd.artifacts.store import ArtifactStore
from hagd.events.topics import fact_topic
from hagd.execution.executor import Task
from hagd.execution.running import run_task
from hagd.pipeline.contract import StageSpec, task_key
from hagd.pipeline.request import Request
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import announce

RATE: Final = 30
SECONDS: Final = 60
SATURATED: Final = 1200
_WORKERS: Final = 4
_PATIENCE_SECONDS: Final = 120.0
_BARE_ATTEMPTS: Final = 3
_BARE_SECONDS: Final = 40.0
_NOTED: Final = 3
_WARM: Final = 60


def measure(place: Place, seconds: int = SECONDS, saturated: int = SATURATED) -> list[Row]:
    """Compute all results beforehand, then ask for them."""
    bucket = place.bucket()
    store = place.open_store(bucket)
    keys = max(RATE * seconds, saturated, _WARM)
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(partial(_compute, store), range(keys)))
    hops = _note_calls(place, bucket)
    with ExitStack() as running:
        services = _start(place, bucket, running)
        # A service serves before it has its share of the topics.
        _saturate(place, store, "warm", _WARM)
        latencies = _steady(place, store, seconds)
        ours = _saturate(place, store, "saturated", saturated)
        computed = sum(len(service.workers()) for service in services)
    if computed:
        raise RuntimeError("something was computed that should have been there")
    bare = _saturate_bare(place, hops, saturated)
    p50, p99, worst = (float(it) for it in np.percentile(latencies, [50, 99, 100]))
    note = f"{RATE}/s for {seconds} s, two stages; median {p50:.3f} s, longest {worst:.2f} s"
    each = f"{ours:.0f} and {bare:.0f} requests/s; each: {describe(hops)}"
    return [
        Row("computed: p99 from request to outcome fact (s)", p99, 2.0, at_most=True, note=note),
        Row("computed: saturated rate beside a bare loop", ours / bare, 0.5, note=each),
    ]


def _start(place: Place, bucket: S3Settings, running: ExitStack) -> list[Service]:
    places = {"transcoder": WORK.id, "verification": JUDGE.id}
    settings = ("--workers", str(_WORKERS))
    return [
        running.enter_context(
            running_service(name, place.folder, place.environment(bucket), "--stages", stage_id, *settings)
        )
        for name, stage_id in places.items()
    ]


def _request(name: str, number: int) -> Request:
    return request_of(f"{name}-{number}", {"name": str(number)}, {})


def _compute(store: ArtifactStore, number: int) -> None:
    """Leave the results of a request in the store, as services would have."""
    inputs: dict[str, ArtifactRef] = {}
    for spec, entry in zip((WORK, JUDGE), _request("any", number).plan, strict=True):
        inputs |= _result(spec, dict(entry.config), inputs, store)


def _result(
    spec: StageSpec, config: dict[str, Any], inputs: dict[str, ArtifactRef], store: ArtifactStore
) -> dict[str, ArtifactRef]:
    own = {role: inputs[role] for role in spec.inputs}
    key = task_key(spec, own, config)
    task = Task(spec.id, key, 1, spec.run, config, own, spec.outputs)
    result = run_task(task, store, _ignore, lambda: False)
    found = Manifest(key, spec.id, result.outputs, result.compute_fingerprint, verdict=result.verdict)
    publish_manifest(store, found)
    return dict(result.outputs)


def _ignore(done: float, total: float, message: str) -> None:
    """Drop the progress of a task."""


def _note_calls(place: Place, bucket: S3Settings) -> list[Hop]:
    """Work off a few requests here, where the calls can be seen."""
    store, log = place.open_store(bucket), place.open_log()
    requests = [_request("noted", number) for number in range(_NOTED)]
    announce_all(create_all(requests, store), requests, log)
    try:
        return record_hops(store, log, list(STAGES.values()), _NOTED)
    finally:
        log.close()


def _steady(place: Place, store: ArtifactStore, seconds: int) -> list[float]:
    """Submit at a steady rate, whatever becomes of the earlier requests; give the seconds of each.

    They count from when a request was due, so that a sender that falls behind does not hide it.
    """
    log = place.open_log()
    runs = RunStore(store)
    requests = [_request("steady", number) for number in range(RATE * seconds)]
    run_ids = create_all(requests, store)
    due: dict[str, float] = {}
    sent: list[Future[None]] = []
    with Facts(place.kafka, fact_topic(JUDGE.id)) as facts, ThreadPoolExecutor(2 * _WORKERS) as pool:
        began = time.monotonic() + 0.5
        for number, (run_id, request) in enumerate(zip(run_ids, requests, strict=True)):
            due[run_id] = began + number / RATE
            time.sleep(max(0.0, due[run_id] - time.monotonic()))
            sent.append(pool.submit(announce, run_id, 0, request, log))
        for future in sent:
            future.result()
        facts.await_all(run_ids, _PATIENCE_SECONDS)
        latencies = [facts.heard[run_id] - due[run_id] for run_id in run_ids]
    log.close()
    time.sleep(1.0)
    ended = [runs.outcome(run_id, 0) for run_id in run_ids]
    if any(outcome is None or outcome.status != "verified" for outcome in ended):
        raise RuntimeError("a run was announced and has no outcome")
    return latencies


def _saturate(place: Place, store: ArtifactStore, name: str, count: int) -> float:
    """Ask for everything at once; give requests per second."""
    requests = [_request(name, number) for number in range(count)]
    run_ids = create_all(requests, store)
    log = place.open_log()
    with Facts(place.kafka, fact_topic(JUDGE.id)) as facts:
        announce_all(run_ids, requests, log)
        moments = facts.await_all(run_ids, _PATIENCE_SECONDS)
    log.close()
    return _rate(moments)


def _saturate_bare(place: Place, hops: Sequence[Hop], count: int) -> float:
    """Let the bare loops take as many records."""
    server: Server = server_of(place, place.bucket().bucket)
    prepare(server, hops)
    environment = {**os.environ, **place.installed}
    entrance, work, judge = hops
    processes = [[(entrance, 1), (work, _WORKERS)], [(judge, _WORKERS)]]
    source = f"{PREFIX}{entrance.source}"
    for attempt in range(_BARE_ATTEMPTS):
        with (
            running_bare(server, processes, environment, place.folder),
            Facts(place.kafka, f"{PREFIX}{fact_topic(JUDGE.id)}") as facts,
        ):
            warm = _send_bare(place, source, f"warm-{attempt}", _WARM)
            try:
                facts.await_all(warm, _BARE_SECONDS)
            except TimeoutError:
                # Now and then a group of the plain client is shared out empty, and stays so.
                continue
            return _rate(facts.await_all(_send_bare(place, source, "bare", count), _PATIENCE_SECONDS))
    raise RuntimeError(f"the bare loop passed nothing on in {_BARE_ATTEMPTS} attempts")


def _send_bare(place: Place, topic: str, name: str, count: int) -> list[str]:
    """Send the bare loop something to do; give what its facts will be called."""
    producer: Any = KafkaProducer(bootstrap_servers=place.kafka)
    names = [f"{name}-{number}" for number in range(count)]
    for it in names:
        producer.send(topic, b"go", it.encode())
    producer.close()
    return names


def _rate(moments: Sequence[float]) -> float:
    """Give the rate in the middle of a burst, where everything is warm and there is enough to do."""
    first, last = len(moments) // 10, len(moments) * 9 // 10
    return (last - first) / (moments[last] - moments[first])
