"""Text in a column of a table: parquet, arrow as `datasets` saves it, csv; and files packed by Zstandard.

Read batch by batch with pyarrow, which the extra `hagd[datasets]` brings; the library `datasets` itself is not needed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from hagd.errors import InvalidInputError

TABLE_SUFFIXES: Final = frozenset({".parquet", ".arrow", ".csv"})
_ROWS: Final = 1024
"""Rows that are in memory at once."""
_ARROW_FILE: Final = b"ARROW1"
"""How a file that can be read in any order begins; what `datasets` saves is a stream, which begins otherwise."""


def texts_of_table(path: Path, names: tuple[str, ...], most_bytes: int) -> Iterator[str]:
    """Give the text of every row.

    Args:
        path: a file with one of `TABLE_SUFFIXES`.
        names: columns that may hold the text; the first one that is there is read.
        most_bytes: the largest document that is taken.

    Raises:
        InvalidInputError: pyarrow is missing, the file is damaged, no such column is there or it holds no text, or a
            row, which is named, has none or too much.
    """
    arrow = _arrow(path)
    try:
        yield from _texts(arrow, path, names, most_bytes)
    except arrow.root.ArrowException as error:
        raise InvalidInputError(f"{path} cannot be read: {error}", "check the file") from error


def unpacked(path: Path) -> BufferedReader:
    """Open a file that Zstandard packed, in one piece or several.

    Raises:
        InvalidInputError: pyarrow is missing.
        OSError: the file cannot be read; so does the stream where it is damaged or cut short.
    """
    return BufferedReader(_arrow(path).root.input_stream(str(path), compression="zstd"))


@dataclass(frozen=True)
class _Arrow:
    """The parts of pyarrow that are used."""

    root: Any
    csv: Any
    ipc: Any
    parquet: Any


def _arrow(path: Path) -> _Arrow:
    try:
        # Heavy, and optional.
        import pyarrow  # noqa: PLC0415
        from pyarrow import csv, ipc, parquet  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInputError(f"{path} cannot be read: pyarrow is missing", "pip install 'hagd[datasets]'") from error
    return _Arrow(pyarrow, csv, ipc, parquet)


def _texts(arrow: _Arrow, path: Path, names: tuple[str, ...], most_bytes: int) -> Iterator[str]:
    row = 0
    for column in _columns(arrow, path, names, most_bytes):
        for text in column.to_pylist():
            row += 1
            if not isinstance(text, str):
                raise InvalidInputError(
                    f"row {row} of {path} holds {'nothing' if text is None else 'no text'}",
                    "give a column of text without gaps",
                )
            if len(text) > most_bytes or len(text.encode()) > most_bytes:
                raise InvalidInputError(
                    f"row {row} of {path} is larger than {most_bytes >> 20} MiB", "divide it into documents"
                )
            yield text


def _columns(arrow: _Arrow, path: Path, names: tuple[str, ...], most_bytes: int) -> Iterable[Any]:
    """Give the column with the text, piece by piece."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        with arrow.parquet.ParquetFile(path) as file:
            name = _chosen(file.schema_arrow.names, names, path)
            for batch in file.iter_batches(_ROWS, columns=[name]):
                yield batch.column(0)
    elif kind == ".csv":
        yield from _columns_of_csv(arrow, path, names, most_bytes)
    else:
        with arrow.root.memory_map(str(path)) as source:
            if source.read(len(_ARROW_FILE)) == _ARROW_FILE:
                file = arrow.ipc.open_file(source)
                batches: Iterable[Any] = (file.get_batch(number) for number in range(file.num_record_batches))
            else:
                source.seek(0)
                batches = file = arrow.ipc.open_stream(source)
            name = _chosen(file.schema.names, names, path)
            for batch in batches:
                for at in range(0, batch.num_rows, _ROWS):
                    yield batch.column(name).slice(at, _ROWS)


def _columns_of_csv(arrow: _Arrow, path: Path, names: tuple[str, ...], most_bytes: int) -> Iterator[Any]:
    csv = arrow.csv
    # A row must lie within two blocks; text may hold line breaks.
    read, parse = csv.ReadOptions(block_size=most_bytes), csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        name = _chosen(reader.schema.names, names, path)
    convert = csv.ConvertOptions(
        include_columns=[name], column_types={name: arrow.root.string()}, strings_can_be_null=False
    )
    with csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
        for batch in reader:
            for at in range(0, batch.num_rows, _ROWS):
                yield batch.column(0).slice(at, _ROWS)


def _chosen(there: list[str], names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in there:
            return name
    raise InvalidInputError(
        f"{path} has no column {', '.join(names)}; its columns are {', '.join(there) or 'none'}",
        "name the column that holds the text: --set corpus.field=COLUMN",
    )
