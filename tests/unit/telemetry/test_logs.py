"""Log lines: one form for both kinds of logger, the names of the run in each, and no secrets."""

import json
import logging

import pytest
import structlog

from hagd.telemetry.logs import configure_logging, readable, working_on


def log_as_service() -> None:
    """Set logs up as a service does. Not in a fixture, whose stderr is not the one of the test."""
    configure_logging(json_lines=True, service="here")


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_both_kinds_of_logger_write_the_same_lines_with_what_is_being_worked_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_as_service()
    with working_on(run_id="r", stage_id="s", trace_id="t"):
        structlog.get_logger().info("one", number=3)
        logging.getLogger("hagd.pipeline").info("two", extra={"number": 3})
        logging.getLogger("somebody.else").warning("three %s", "words")
    structlog.get_logger().info("outside")
    one, two, three, outside = said(capsys)
    for line in (one, two, three):
        assert (line["service"], line["run_id"], line["stage_id"], line["trace_id"]) == ("here", "r", "s", "t")
    assert (one["number"], two["number"], three["event"]) == (3, 3, "three words")
    assert "run_id" not in outside


def test_libraries_are_heard_from_warnings_on_and_hagd_from_news_on(capsys: pytest.CaptureFixture[str]) -> None:
    log_as_service()
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("hagd.pipeline").info("news")
    assert [line["event"] for line in said(capsys)] == ["news"]


def test_secrets_are_not_written_whoever_logs_them(capsys: pytest.CaptureFixture[str]) -> None:
    log_as_service()
    structlog.get_logger().info("call", token="abc", metadata={"authorization": "abc"}, count_tokens=7)
    logging.getLogger("hagd").warning("refused: Bearer abc.def at s3://key:abc@host/bucket")
    try:
        raise ValueError("authorization: bearer abc.def")
    except ValueError:
        structlog.get_logger().exception("broke")
    text = json.dumps(said(capsys))
    assert "abc" not in text
    # The last one twice, because a traceback shows the line that raised.
    assert text.count("[hidden]") == 6


def test_what_signs_an_address_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    log_as_service()
    address = "/bucket/name?X-Amz-Algorithm=abc&X-Amz-Credential=abc%2Fday&X-Amz-Signature=abc"
    logging.getLogger("urllib3.connectionpool").warning("Retrying (%r) after %s", 3, address)
    (line,) = said(capsys)
    assert line["event"] == "Retrying (3) after /bucket/name?X-Amz-Algorithm=[hidden]"


def test_a_person_reads_a_json_line_as_words_and_any_other_as_it_is() -> None:
    line = json.dumps({"timestamp": "now", "level": "error", "event": "broke", "key": 7, "exception": "Traceback"})
    assert readable(line) == "now error broke key=7\nTraceback"
    assert readable("Segmentation fault") == "Segmentation fault"
    assert readable("[1]") == "[1]"
