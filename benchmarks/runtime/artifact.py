"""A 1 GiB artifact through the store: put, get, verify; beside the client alone, which gets and puts the same bytes.

Each side runs in a process of its own, so that its memory is its own. `python -m benchmarks.runtime.artifact` is that.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from minio import Minio

from benchmarks.cluster.place import Place
from benchmarks.tables import Row
from hagd.artifacts.s3 import S3Store
from hagd.artifacts.s3_client import S3Settings

_MIB: Final = 2**20
_PIECES: Final = 1024
_WARM_PIECES: Final = 24
_ROUNDS: Final = 2


def measure(place: Place) -> list[Row]:
    """Let both sides take turns, and compare the best of each."""
    bucket = place.bucket()
    environment = {**os.environ, **place.environment(bucket)}
    found: dict[str, list[dict[str, float]]] = {"raw": [], "store": []}
    place.open_store(bucket)
    for _ in range(_ROUNDS):
        for side, results in found.items():
            command = [sys.executable, "-m", "benchmarks.runtime.artifact", side, bucket.location]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            results.append(json.loads(done.stdout))
    raw, store = (min(results, key=lambda it: it["put"] + it["get"]) for results in found.values())
    ratio = (raw["put"] + raw["get"]) / (store["put"] + store["get"])
    rates = {name: _PIECES / (it["put"] + it["get"]) for name, it in (("store", store), ("client", raw))}
    note = f"{rates['store']:.0f} and {rates['client']:.0f} MiB/s; put {store['put']:.1f} and {raw['put']:.1f} s, "
    note += f"get {store['get']:.1f} and {raw['get']:.1f} s"
    above = max(it["above"] for it in found["store"]) / _MIB
    return [
        Row("1 GiB: store beside the client alone", ratio, 0.6, note=note),
        Row("1 GiB: memory above baseline (MiB)", above, 64, at_most=True),
    ]


def pieces(count: int) -> Iterator[bytes]:
    """Give so many different MiB."""
    base = hashlib.shake_256(b"hagd").digest(_MIB - 8)
    for number in range(count):
        yield number.to_bytes(8, "big") + base


class _Stream(io.RawIOBase):
    """The same bytes as something to read from, for the client alone."""

    def __init__(self, count: int) -> None:
        self._pieces, self._rest = pieces(count), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        given, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


def through_store(location: str, count: int) -> tuple[float, float]:
    """Put, get and verify; give the seconds of putting and of getting."""
    store = S3Store(S3Settings.from_location(location), probe=False)
    began = time.monotonic()
    ref = store.put_blob(lambda: pieces(count), "application/octet-stream")
    put = time.monotonic() - began
    size = sum(len(piece) for piece in store.stream_blob(ref))
    seconds = time.monotonic() - began - put
    store.delete_blob(ref)
    if size != count * _MIB:
        raise RuntimeError(f"{size} bytes came back")
    return put, seconds


def through_client(location: str, count: int) -> tuple[float, float]:
    """Put and get as the client does when nothing else is asked of it."""
    settings = S3Settings.from_location(location)
    keys = os.environ["HAGD_S3_ACCESS_KEY"], os.environ["HAGD_S3_SECRET_KEY"]
    client = Minio(settings.endpoint.removeprefix("http://"), *keys, secure=False, region=settings.region)
    began = time.monotonic()
    stream = io.BufferedReader(_Stream(count), _MIB)
    client.put_object(settings.bucket, "raw", stream, count * _MIB)
    put = time.monotonic() - began
    with client.get_object(settings.bucket, "raw") as answer:
        for _ in answer.stream(_MIB):
            pass
    seconds = time.monotonic() - began - put
    client.remove_object(settings.bucket, "raw")
    return put, seconds


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def main(side: str, location: str) -> None:
    """Measure one side in this process and tell it as JSON."""
    transfer = {"raw": through_client, "store": through_store}[side]
    # The baseline is a process that has done all of it once: with connections, buffers and code.
    transfer(location, _WARM_PIECES)
    baseline = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    put, get = transfer(location, _PIECES)
    print(json.dumps({"put": put, "get": get, "above": _resident("VmHWM") - baseline}))


if __name__ == "__main__":
    main(*sys.argv[1:])
