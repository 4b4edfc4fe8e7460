"""Log set-up, called once by each entry point and by nothing else: JSON lines for machines, short lines for people.

A line that is written while working on a run bears its `run_id`, `stage_id` and `trace_id`, whichever module writes it
and whichever logger it uses. What bears the name of a secret is never written, nor is a bearer token in a text, or
what makes an address a signed one.
"""

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Final

import structlog

HIDDEN: Final = "[hidden]"
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_-])(?:token|secret|password|passwd|credentials?|authorization|api[_-]?key|private[_-]?key)(?:$|[_-])", re.I
)
_SECRET_TEXT: Final = re.compile(r"(?P<before>bearer\s+|://[^\s/:@]+:|x-amz-[a-z-]+=)(?P<secret>[^\s@\"']+)", re.I)


def configure_logging(*, json_lines: bool, level: int = logging.INFO, **bound: Any) -> None:
    """Send structlog and the standard library's loggers to stderr; `bound` fields stand in every line."""

    def add_bound(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001
        # Not by context variables: threads that were not started here have their own.
        return {**bound, **event}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_bound,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if json_lines:
        last: list[Any] = [structlog.processors.format_exc_info, _hide_secrets, structlog.processors.JSONRenderer()]
    else:
        last = [_hide_secrets, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared, structlog.stdlib.add_logger_name],
            processors=[remove_meta, *last],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("hagd").setLevel(level)


def working_on(**fields: str) -> AbstractContextManager[None]:
    """Put fields into every line that this thread or task writes inside the context."""
    return structlog.contextvars.bound_contextvars(**fields)


def readable(line: str) -> str:
    """Give a line for a person: of a JSON line its time, level, event and the rest, a traceback below; others as is."""
    try:
        event: Any = json.loads(line)
        told = [event.pop("timestamp"), event.pop("level"), event.pop("event")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    traceback = event.pop("exception", "")
    told += [f"{name}={value}" for name, value in event.items()]
    return " ".join(str(part) for part in told) + (f"\n{traceback}" if traceback else "")


def _hide_secrets(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001
    return {key: HIDDEN if _SECRET_NAME.search(key) else _without_secrets(value) for key, value in event.items()}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_TEXT.sub(rf"\g<before>{HIDDEN}", value)
    if isinstance(value, dict):
        return _hide_secrets(None, "", {str(key): inner for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value]
    return value
