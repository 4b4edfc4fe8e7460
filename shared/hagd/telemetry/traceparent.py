"""W3C trace context: one line of text that says to which trace a piece of work belongs, and under which span.

It travels wherever work travels: in metadata of gRPC, in events, in headers of Kafka, in tasks. Anybody may have
written it, so what is no such line is taken for none; a trace is never worth refusing a request for.
"""

import hashlib
import re
from typing import Final

HEADER: Final = "traceparent"
_FORM: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


def checked(text: object) -> str:
    """Give a trace context as it is, or "" when it is none."""
    return text if isinstance(text, str) and _FORM.fullmatch(text) else ""


def trace_id_of(traceparent: str) -> str:
    """Give the 32 hexadecimal digits that all spans of a trace share; "" where there is no trace."""
    found = _FORM.fullmatch(traceparent)
    return found.group(1) if found else ""


def of_run(run_id: str) -> str:
    """Give the trace of a run whose request came without one: the same for whoever asks."""
    digest = hashlib.sha256(f"trace of run {run_id}".encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
