"""Spans: the context goes on with and without a tracer, and nothing is loaded or kept that nobody asked for."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hagd.errors import InvalidInputError, StageError, UnknownNameError
from hagd.telemetry.spans import draw, read_spans, trace_of
from hagd.telemetry.tracing import configure_tracing, current_traceparent, flush, span, use_tracer

GIVEN = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """Give the file in which the spans of this process are kept."""
    otel = pytest.importorskip("hagd.telemetry.otel")
    path = tmp_path / "spans.jsonl"
    restore = use_tracer(otel.OtelTracer.of_environment("here", str(path), to_collector=False))
    yield path
    restore()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_a_tracer_the_context_goes_on_unchanged() -> None:
    with span("outer", parent=GIVEN), span("inner") as inner:
        inner.set(anything=1)
        assert (inner.traceparent, current_traceparent()) == (GIVEN, GIVEN)
    assert current_traceparent() == ""


def test_nothing_of_opentelemetry_is_loaded_before_somebody_asks_for_traces() -> None:
    code = "import sys, hagd.rpc.wiring, hagd.execution.worker, hagd.cli.app; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_the_extra_a_request_for_traces_is_only_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "hagd.telemetry.otel", None)
    configure_tracing("here", {"HAGD_TRACE_FILE": "nowhere"})
    assert "hagd[telemetry]" in caplog.text


def test_spans_stand_under_the_given_parent_or_under_what_is_being_done(kept: Path) -> None:
    with span("outer", parent=GIVEN, kind="server", run_id="r") as outer, span("inner"):
        assert outer.traceparent.split("-")[1] == "ab" * 16
    inner, above = lines(kept)
    assert (above["parent_id"], above["kind"], above["attributes"]) == ("cd" * 8, "server", {"run_id": "r"})
    assert inner["parent_id"] == above["span_id"]
    assert {inner["trace_id"], above["trace_id"]} == {"ab" * 16}


async def test_tasks_of_one_event_loop_do_not_mix_their_spans(kept: Path) -> None:
    async def one(name: str) -> None:
        with span(name):
            await asyncio.sleep(0)
            with span(f"{name} inner"):
                await asyncio.sleep(0)

    await asyncio.gather(one("a"), one("b"))
    by_name = {line["name"]: line for line in lines(kept)}
    for name in "ab":
        assert by_name[f"{name} inner"]["parent_id"] == by_name[name]["span_id"]


def test_a_span_of_what_failed_names_the_error_but_never_the_words_of_a_stranger(kept: Path) -> None:
    with pytest.raises(StageError), span("ours"):
        raise StageError("told to people")
    with pytest.raises(ZeroDivisionError), span("foreign"):
        raise ZeroDivisionError("the secret of the house")
    ours, foreign = lines(kept)
    assert (ours["error"], ours["attributes"]["error.type"]) == (True, "stage")
    assert (foreign["error"], foreign["attributes"]["error.type"]) == (True, "ZeroDivisionError")
    assert "secret" not in kept.read_text()


def test_a_dropped_span_is_not_kept(kept: Path) -> None:
    with span("waited in vain") as nothing:
        nothing.drop()
    flush()
    assert lines(kept) == []


def test_a_trace_is_drawn_as_a_tree_with_times_services_and_what_is_known(kept: Path) -> None:
    with span("run", run_id="abc"):
        with span("stage one", outcome="done", cached=False), span("execute"):
            pass
        with span("stage two", outcome="cached", cached=True):
            pass
    with span("another", run_id="xyz"):
        pass
    drawn = draw(trace_of(read_spans(kept), "ab"))
    assert [line[25:].rstrip() for line in drawn] == [
        "run",
        "├ stage one  outcome=done cached=false",
        "│ └ execute",
        "└ stage two  outcome=cached cached=true",
    ]
    assert all(line[19:23] == "here" for line in drawn)
    assert len(draw(trace_of(read_spans(kept), ""))) == 1
    with pytest.raises(UnknownNameError, match="0 traced runs"):
        trace_of(read_spans(kept), "no")


@pytest.mark.parametrize("text", ["{", "[]", '{"trace_id": "x"}'])
def test_a_file_that_holds_no_spans_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "spans").write_text(text)
    with pytest.raises(InvalidInputError, match="line 1"):
        read_spans(tmp_path / "spans")


class Collector(BaseHTTPRequestHandler):
    """Keeps what it was sent."""

    received: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_spans_go_to_the_collector_that_the_variables_of_opentelemetry_name(monkeypatch: pytest.MonkeyPatch) -> None:
    otel = pytest.importorskip("hagd.telemetry.otel")
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        restore = use_tracer(otel.OtelTracer.of_environment("here", "", to_collector=True))
        try:
            with span("sent to a collector"):
                pass
            flush(30.0)
        finally:
            restore()
            server.shutdown()
            thread.join()
    [(path, body)] = Collector.received
    assert path == "/v1/traces"
    assert b"sent to a collector" in body
