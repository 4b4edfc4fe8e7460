"""Names of headers that are not UTF-8, which kafka-python 3.0 raises at for as long as the record is there.

Anybody who may write to a topic could stop its partition for good that way. Such a name belongs to none of our headers,
so its bytes that are no text become question marks, and the record is judged by its value like any other.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint

_BATCH: Final[Any] = DefaultRecordBatch
_read_strictly: Final[Callable[[Any], Any]] = _BATCH._read_msg


def accept_any_header_name() -> None:
    """Make every consumer of this process read such records."""
    _BATCH._read_msg = _read_any


def _read_any(batch: Any) -> Any:
    """Read the next record of a batch, whatever its headers are called. Its checksum has been looked at before."""
    try:
        return _read_strictly(batch)
    except UnicodeDecodeError:
        # The batch owns its bytes; they are mended where they are, since each of many records may need it.
        own = batch._buffer
        for name in _names(own, batch._pos):
            try:
                own[name].decode("utf-8")
            except UnicodeDecodeError:
                own[name] = bytes(byte if byte < 0x80 else ord("?") for byte in own[name])
        return _read_strictly(batch)


def _names(buffer: bytearray, at: int) -> Iterator[slice]:
    """Find the names of the headers of the record that begins at `at`, in version 2 of the format."""
    for _ in range(4):
        # Length, attributes, time, offset.
        _, at = decode_varint(buffer, at)
    for _ in range(2):
        # Key and value; of nothing the length is -1.
        length, at = decode_varint(buffer, at)
        at += max(length, 0)
    count, at = decode_varint(buffer, at)
    for _ in range(count):
        length, at = decode_varint(buffer, at)
        yield slice(at, at + length)
        at += length
        length, at = decode_varint(buffer, at)
        at += max(length, 0)
