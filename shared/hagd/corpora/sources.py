"""Where documents come from: text files (one document each), lines of JSON and rows of tables (one document each), also
in folders, those that `datasets` saves among them.

Lines and rows are read as they come, so that a file may be larger than memory. RedPajama's two schemas, and most
others, are told by the name of the field that holds the text. How a file is read follows from its suffix, which its
digest covers.
"""

import contextlib
import gzip
import hashlib
import json
import random
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, cast

from hagd.corpora.tables import TABLE_SUFFIXES, texts_of_table, unpacked
from hagd.errors import InvalidInputError

TEXT_SUFFIXES: Final = frozenset({".txt", ".md", ".rst"})
JSON_SUFFIXES: Final = tuple(
    it + packing for it in (".jsonl", ".ndjson", ".json") for packing in ("", ".gz", ".zst") if it + packing != ".json"
)
"""Of lines of JSON. A plain `.json` is mostly one value over many lines, such as settings, so it is left out."""
READ_SUFFIXES: Final = (*sorted(TEXT_SUFFIXES | TABLE_SUFFIXES), *JSON_SUFFIXES)
"""What is read of a folder."""
FIELDS: Final = ("text", "raw_content", "content")
"""Fields that hold the text, the first one that is there: RedPajama's first schema, its second, and others."""
MOST_DOCUMENT_BYTES: Final = 64 << 20
_SHOWN_ENDINGS: Final = 4
BUFFER: Final = 4096
"""Documents among which the next one is drawn, at most."""
BUFFER_CHARACTERS: Final = 256 << 20
"""Their text, about; so much is in memory."""


def files_of(paths: Sequence[str]) -> tuple[Path, ...]:
    """Give the files that are read, folders opened, in an order that depends on their names alone.

    Raises:
        InvalidInputError: a path does not exist, or holds nothing that can be read.
    """
    found: list[Path] = []
    for text in paths:
        inside = _inside(text)
        if not inside:
            others = told_left_out([text])
            raise InvalidInputError(
                f"there is no text at {text}{f': {others}' if others else ''}",
                f"give a file, or a folder with {', '.join(READ_SUFFIXES)}",
            )
        found += inside
    return tuple(found)


def told_left_out(paths: Sequence[str]) -> str:
    """Say how many files of folders are not read, by their endings; nothing where all are."""
    endings: Counter[str] = Counter()
    for text in paths:
        with contextlib.suppress(OSError, RuntimeError):
            folder = Path(text).expanduser()
            for file in folder.rglob("*") if folder.is_dir() else ():
                # Beside the text lie what hides, and the settings and caches of `datasets`.
                if not (_is_read(file) or file.name.startswith(".") or _is_of_datasets(file)) and file.is_file():
                    endings["".join(file.suffixes[-2:]).lower() or file.name] += 1
    if not endings:
        return ""
    ordered = sorted(endings.items(), key=lambda it: (-it[1], it[0]))
    most = ", ".join(f"{count} {ending}" for ending, count in ordered[:_SHOWN_ENDINGS])
    return f"{endings.total()} files are left out ({most}{', ...' if len(endings) > _SHOWN_ENDINGS else ''})"


def digest_of_files(files: Sequence[Path]) -> str:
    """Digest the content of files and how each is read, whatever else they are called.

    Raises:
        InvalidInputError: one cannot be read.
    """
    whole = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                way = "lines" if _is_lines(file) else file.suffix.lower() if _is_table(file) else "text"
                whole.update(f"{way} {_packing(file)} ".encode())
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InvalidInputError(f"{file} cannot be read: {error.strerror}", "check the path") from error
    return whole.hexdigest()


def documents(files: Sequence[Path], field: str | None = None) -> Iterator[str]:
    """Give the text of every document, in the order of the files.

    Args:
        files: what to read; lines of JSON and tables are told by their suffix, all else is text.
        field: which field of a line of JSON, or column of a table, holds the text; the first of `FIELDS` that is there
            when None.

    Raises:
        InvalidInputError: a file cannot be read or is no UTF-8, or a line or row, which is named, has no text.
    """
    for file in files:
        try:
            if _is_lines(file):
                with _opened(file) as stream:
                    yield from _of_lines(file, stream, field)
            elif _is_table(file):
                yield from texts_of_table(file, (field,) if field else FIELDS, MOST_DOCUMENT_BYTES)
            else:
                _check_size(file, file.stat().st_size)
                yield file.read_text(encoding="utf-8")
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidInputError(f"{file} cannot be read: {error}", "check the file") from error
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{file} is not UTF-8: {error.reason}", "save it as UTF-8") from error


def shuffled(texts: Iterator[str], seed: int, buffer: int = BUFFER) -> Iterator[str]:
    """Give the same documents in another order, drawn from so many at a time; the seed decides."""
    draw = random.Random(seed)  # no secret
    waiting, held = list[str](), 0
    for text in texts:
        waiting.append(text)
        held += len(text)
        while len(waiting) >= buffer or held > BUFFER_CHARACTERS:
            at = draw.randrange(len(waiting))
            waiting[at], waiting[-1] = waiting[-1], waiting[at]
            held -= len(waiting[-1])
            yield waiting.pop()
    draw.shuffle(waiting)
    yield from waiting


def _inside(text: str) -> list[Path]:
    """Give the files of a path; a file that is named itself may have any suffix, and is text where that is unknown."""
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return sorted(it for it in path.rglob("*") if _is_read(it) and it.is_file())
        return [path] if path.is_file() else []
    except (OSError, RuntimeError):
        # A name that is too long, or the home of nobody.
        return []


def _is_read(path: Path) -> bool:
    """Say whether a file in a folder is read. Beside what `datasets` saves lie its caches, which repeat the rows."""
    if path.suffix.lower() == ".arrow" and (state := path.parent / "state.json").is_file():
        return path.name in _saved(state)
    return _is_lines(path) or _is_table(path) or _is_text(path)


def _is_of_datasets(path: Path) -> bool:
    return path.suffix.lower() == ".arrow" or path.name in {"state.json", "dataset_info.json", "dataset_dict.json"}


def _saved(state: Path) -> set[str]:
    """Give the names of the files that make up a saved dataset.

    Raises:
        InvalidInputError: its `state.json` does not tell.
    """
    try:
        return {str(it["filename"]) for it in json.loads(state.read_bytes())["_data_files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{state} names no data files: {error}", "save the dataset again") from error


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES


def _is_text(path: Path) -> bool:
    return path.suffix.lower() in TEXT_SUFFIXES


def _is_lines(path: Path) -> bool:
    return path.name.lower().endswith(JSON_SUFFIXES)


def _packing(path: Path) -> str | bool:
    """Give how a file is packed; True, which digests hold, for gzip."""
    return {".gz": True, ".zst": "zst"}.get(path.suffix.lower(), False)


def _opened(file: Path) -> gzip.GzipFile | BufferedReader:
    match _packing(file):
        case "zst":
            return unpacked(file)
        case True:
            return gzip.GzipFile(file)
        case _:
            return file.open("rb")


def _of_lines(file: Path, stream: gzip.GzipFile | BufferedReader, field: str | None) -> Iterator[str]:
    number = 0
    while line := stream.readline(MOST_DOCUMENT_BYTES + 1):
        number += 1
        _check_size(f"line {number} of {file}", len(line))
        if line.strip():
            yield _text_of(f"line {number} of {file}", line, field)


def _text_of(where: str, line: bytes, field: str | None) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where} is no JSON: {error}", "write one JSON object a line") from error
    entry = cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
    for name in (field,) if field else FIELDS:
        if isinstance(text := entry.get(name), str):
            # Half of a pair of surrogates, as cut emoji leave it, is no text.
            return text.encode("utf-8", "replace").decode()
    raise InvalidInputError(
        f"{where} has no text in {field or ', '.join(FIELDS)}; its fields are {', '.join(map(str, entry)) or 'none'}",
        "name the field that holds the text",
    )


def _check_size(what: object, size: int) -> None:
    if size > MOST_DOCUMENT_BYTES:
        raise InvalidInputError(
            f"{what} is larger than {MOST_DOCUMENT_BYTES >> 20} MiB", "divide it into documents, one per line of JSON"
        )
