"""A batch whose records have headers with names that are no text is read whole, and nothing else of it changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from hagd.events.kafka.header_names import accept_any_header_name

Header = tuple[str, bytes | None]


class Raw(str):
    """A name that the client of another system writes as it likes."""

    def __new__(cls, name: bytes) -> "Raw":
        made = super().__new__(cls, name.hex())
        made._name = name
        return made

    _name: bytes

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002 - as of any text
        return self._name


def batch(records: list[tuple[bytes | None, list[Header]]], compression: int = 0) -> DefaultRecordBatch:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset, (value, headers) in enumerate(records):
        builder.append(offset, timestamp=1_000, key=b"k", value=value, headers=headers)
    return DefaultRecordBatch(bytes(builder.build()))


@pytest.fixture(autouse=True)
def lenient() -> None:
    accept_any_header_name()


@pytest.mark.parametrize("compression", [DefaultRecordBatch.CODEC_NONE, DefaultRecordBatch.CODEC_GZIP])
def test_bytes_that_are_no_text_become_question_marks(compression: int) -> None:
    records: list[tuple[bytes | None, list[Header]]] = [
        (b"first", [("plain", b"1")]),
        (b"\xff\xfe", [(Raw(b"\xff\xfename"), b"\xff\xfename"), ("after", None)]),
        (None, [("grüße", b"2")]),
    ]
    read = list(batch(records, compression))
    assert [it.value for it in read] == [b"first", b"\xff\xfe", None]
    assert [it.headers for it in read] == [
        [("plain", b"1")],
        [("??name", b"\xff\xfename"), ("after", None)],
        [("grüße", b"2")],
    ]


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=6), st.binary(max_size=30))
def test_whatever_names_are_made_of_values_stay(headers: list[tuple[bytes, bytes]], value: bytes) -> None:
    (read,) = batch([(value, [(Raw(name), content) for name, content in headers])])
    assert read.value == value
    assert [content for _, content in read.headers] == [content for _, content in headers]
