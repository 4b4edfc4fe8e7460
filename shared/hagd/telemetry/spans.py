"""Reading the spans that processes appended to a file, and drawing those of a trace as a tree."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hagd.errors import InvalidInputError, UnknownNameError

_SHOWN: Final = ("outcome", "code", "cached", "attempts", "generation", "bytes", "error.type")


@dataclass(frozen=True)
class FinishedSpan:
    """One span of a file."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    error: bool
    attributes: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


def read_spans(path: Path) -> list[FinishedSpan]:
    """Give the spans of a file in the order of their start.

    Raises:
        InvalidInputError: the file cannot be read, or a line of it is no span.
    """
    hint = "give the file that HAGD_TRACE_FILE named"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}", hint) from error
    spans: list[FinishedSpan] = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            spans.append(FinishedSpan(**{name: value[name] for name in FinishedSpan.__dataclass_fields__}))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"line {number} of {path} is no span: {error}", hint) from error
    return sorted(spans, key=lambda span: span.start_ns)


def trace_of(spans: Sequence[FinishedSpan], run_id: str) -> list[FinishedSpan]:
    """Give the spans of the trace of a run, named by the start of its id; of the latest trace when it is empty.

    Raises:
        UnknownNameError: no trace, or several runs, have such an id.
    """
    runs = {str(span.attributes["run_id"]): span.trace_id for span in spans if "run_id" in span.attributes}
    found = [run for run in runs if run.startswith(run_id)]
    if not found or (run_id and len(found) > 1):
        raise UnknownNameError(
            f"{len(found)} traced runs have an id that starts with {run_id!r}", "see `hagd run list`"
        )
    return [span for span in spans if span.trace_id == runs[found[-1]]]


def draw(spans: Sequence[FinishedSpan]) -> list[str]:
    """Draw a trace: when each span began and how long it took, in seconds, which process, what, and how it ended."""
    began = min(span.start_ns for span in spans)
    ids = {span.span_id for span in spans}
    children: dict[str, list[FinishedSpan]] = {}
    for span in spans:
        # What stands under a span of a process that kept none comes to the top.
        children.setdefault(span.parent_id if span.parent_id in ids else "", []).append(span)

    def walk(parent: str, indent: str) -> Iterator[tuple[FinishedSpan, str]]:
        below = children.get(parent, [])
        for span in below:
            last = span is below[-1]
            yield span, indent + ("└ " if last else "├ ")
            yield from walk(span.span_id, indent + ("  " if last else "│ "))

    rows = [(span, branch[2:] + _short(span.name)) for span, branch in walk("", "")]
    name, service = max(len(text) for _, text in rows), max(len(span.service) for span, _ in rows)
    return [
        f"{(span.start_ns - began) / 1e9:8.3f} {span.seconds:8.3f}  {span.service:<{service}}  {text:<{name}}"
        f"  {_told(span)}".rstrip()
        for span, text in rows
    ]


def _short(name: str) -> str:
    """Leave the package out of the name of a method."""
    return name.rpartition(".")[2] if "/" in name else name


def _told(span: FinishedSpan) -> str:
    shown = {key: span.attributes[key] for key in _SHOWN if key in span.attributes}
    if shown.get("generation") == 0:
        del shown["generation"]
    return " ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in shown.items())
