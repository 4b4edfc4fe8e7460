"""The rival of the loops: plain kafka-python and minio, the same calls in the same order, in as many threads.

It knows nothing of manifests or leases and checks nothing. `python -m benchmarks.runtime.bare` is one process of it; it
reads what to do as JSON from its standard input, and ends when that ends.
"""

import io
import json
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic
from minio import Minio
from minio.error import S3Error

from benchmarks.cluster.place import PARTITIONS, Place
from benchmarks.runtime.calls import Call, Hop

PREFIX: Final = "bare."
_OBJECTS: Final = 64
_AHEAD: Final = 64
_COMMIT_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Server:
    """Where the servers are."""

    kafka: str
    s3: str
    """`host:port`"""
    bucket: str
    access_key: str
    secret_key: str

    def client(self) -> Minio:
        """Give a client of the store."""
        return Minio(self.s3, self.access_key, self.secret_key, secure=False, region="us-east-1")


def server_of(place: Place, bucket: str) -> Server:
    """Say where the servers of a place are."""
    return Server(
        place.kafka, place.s3.endpoint.removeprefix("http://"), bucket, place.s3.access_key, place.s3.secret_key
    )


def prepare(server: Server, hops: Sequence[Hop]) -> None:
    """Make the bucket, the topics, and the objects that are read."""
    topics = {f"{PREFIX}{name}" for hop in hops for name in (hop.source, *(it.topic for it in hop.calls if it.topic))}
    # What is known to type checkers of this class is older than the class.
    admin: Any = KafkaAdminClient(bootstrap_servers=server.kafka)
    admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics])
    admin.wait_for_topics(list(topics))
    admin.close()
    client = server.client()
    client.make_bucket(server.bucket)
    for call in {call for hop in hops for call in hop.calls if call.kind in ("get", "list")}:
        for number in range(_OBJECTS):
            name = _name(call, number)
            keys = [name] if call.kind == "get" else [f"{name}/{key}" for key in range(call.size)]
            for key in keys:
                client.put_object(server.bucket, key, io.BytesIO(bytes(call.size)), call.size)


@contextmanager
def running_bare(
    server: Server, processes: Sequence[Sequence[tuple[Hop, int]]], environment: Mapping[str, str], folder: Path
) -> Generator[None]:
    """Run processes, each of some hops with so many threads; they end with the context."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, hops in enumerate(processes):
            spec = {
                "server": asdict(server),
                "hops": [[hop.source, [asdict(it) for it in hop.calls], threads] for hop, threads in hops],
            }
            with (folder / f"bare-{secrets.token_hex(2)}-{number}.log").open("wb") as log:
                command = [sys.executable, "-m", "benchmarks.runtime.bare"]
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=dict(environment)
                )
            running.append(process)
            assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes, see above
            process.stdin.write(json.dumps(spec).encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


class _Hop:
    """A consumer in a thread, and threads that do the calls for each record."""

    def __init__(self, server: Server, source: str, calls: Sequence[Call], threads: int, shared: "_Clients") -> None:
        self._server, self._calls, self._shared = server, calls, shared
        self._records: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._source = f"{PREFIX}{source}"
        self.joined = threading.Event()
        for work in (self._consume, *[self._work] * threads):
            threading.Thread(target=work, daemon=True).start()

    def _consume(self) -> None:
        consumer: Any = KafkaConsumer(
            bootstrap_servers=self._server.kafka,
            group_id=self._source,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            metrics_enabled=False,
        )
        # A group whose leader does not know the topic yet is shared out empty, and stays so for minutes.
        while not consumer.partitions_for_topic(self._source):
            time.sleep(0.1)
        consumer.subscribe([self._source])
        committed_at = 0.0
        while True:
            fetched = consumer.poll(timeout_ms=100, max_records=_AHEAD)
            if consumer.assignment():
                self.joined.set()
            for records in fetched.values():
                for record in records:
                    self._records.put(record)
            if time.monotonic() - committed_at >= _COMMIT_SECONDS and self.joined.is_set():
                consumer.commit()
                committed_at = time.monotonic()

    def _work(self) -> None:
        while True:
            record = self._records.get()
            last = ""
            for call in self._calls:
                last = self._shared.do(call, record, last)


class _Clients:
    """One client of each kind for all hops of the process."""

    def __init__(self, server: Server) -> None:
        self._s3, self._bucket = server.client(), server.bucket
        self._producer: Any = KafkaProducer(
            bootstrap_servers=server.kafka, acks="all", enable_idempotence=True, metrics_enabled=False
        )

    def do(self, call: Call, record: Any, last: str) -> str:
        """Make a call; give the name of the object that was written last."""
        name = _name(call, record.offset % _OBJECTS)
        match call.kind:
            case "get":
                with self._s3.get_object(self._bucket, name) as answer:
                    answer.read()
            case "miss":
                with suppress(S3Error):
                    self._s3.get_object(self._bucket, f"missing/{record.partition}-{record.offset}")
            case "list":
                list(self._s3.list_objects(self._bucket, f"{name}/", recursive=True))
            case "put":
                last = f"put/{secrets.token_hex(16)}"
                self._s3.put_object(self._bucket, last, io.BytesIO(bytes(call.size)), call.size)
            case "head":
                self._s3.stat_object(self._bucket, name)
            case "delete":
                self._s3.remove_object(self._bucket, last or "missing/object")
            case "send":
                self._producer.send(f"{PREFIX}{call.topic}", bytes(call.size), record.key).get(20)
        return last


def _name(call: Call, number: int) -> str:
    return f"{call.kind}/{call.size}/{number}"


def main() -> None:
    """Work until the standard input ends."""
    spec = json.loads(sys.stdin.readline())
    server = Server(**spec["server"])
    clients = _Clients(server)
    hops = [
        _Hop(server, source, [Call(**call) for call in calls], threads, clients)
        for source, calls, threads in spec["hops"]
    ]
    for hop in hops:
        hop.joined.wait()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
