"""What every process of a soak notes down as it happens: one JSON object a line, appended in one write.

What was written stays though the process is killed the moment after, because the page cache is the kernel's.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Journal:
    """A file that several processes append to."""

    path: Path

    def note(self, what: str, **fields: Any) -> None:
        """Append what happened, with the time and the process."""
        line = json.dumps({"what": what, "at": time.time(), "pid": os.getpid()} | fields) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """Give all lines so far."""
        return JournalReader(self).more()


@dataclass
class JournalReader:
    """Follows a journal, so that nobody reads again what was read already."""

    journal: Journal
    _position: int = 0

    def more(self) -> list[dict[str, Any]]:
        """Give the lines since the last call."""
        if not self.journal.path.exists():
            return []
        with self.journal.path.open("rb") as stream:
            stream.seek(self._position)
            lines = [line for line in stream if line.endswith(b"\n")]
        self._position += sum(map(len, lines))
        return [json.loads(line) for line in lines]
