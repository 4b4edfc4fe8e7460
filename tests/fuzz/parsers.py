"""What is fuzzed: everything that reads bytes from outside, with the one promise that they all make.

Whatever the bytes, a parser gives a value or raises an error of the tree.
"""

import contextlib
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from hagd.api.extraction.v1 import extraction_pb2
from hagd.api.run.v1 import run_pb2
from hagd.errors import HagdError
from hagd.events.envelope import Envelope
from hagd.rpc.codec import request_from_proto, request_to_proto, run_from_proto, run_to_proto


def envelope(data: bytes) -> None:
    """Read an event; what was read can be written, and read again as the same."""
    read = Envelope.decode(data)
    if Envelope.decode(read.encode()) != read:
        raise AssertionError("an event changes when it is written and read")


def submission(data: bytes) -> None:
    """Read a request as a service does; what was read can be sent on."""
    with contextlib.suppress(DecodeError):
        request = request_from_proto(extraction_pb2.SubmitRequest.FromString(data), "somebody")
        if request_from_proto(request_to_proto(request), "somebody") != request:
            raise AssertionError("a request changes on the wire")


def run(data: bytes) -> None:
    """Read a run as a client does; what was read can be told on."""
    with contextlib.suppress(DecodeError):
        run_to_proto(run_from_proto(run_pb2.Run.FromString(data)))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"envelope": envelope, "submission": submission, "run": run}


def holds(name: str, data: bytes) -> None:
    """Give bytes to a parser; raise what it must not raise."""
    with contextlib.suppress(HagdError):
        TARGETS[name](data)
