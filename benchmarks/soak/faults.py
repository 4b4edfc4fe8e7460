"""Tokens that say where the next process has to die: a file per fault, taken by removing it.

Only one process can remove a file, so every token costs one process its life. Who finds none goes on; outside of a
soak there is no folder of tokens, and nobody ever dies.
"""

import os
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.soak.journal import Journal

FOLDER_VARIABLE: Final = "HAGD_SOAK_FOLDER"


@dataclass(frozen=True)
class Faults:
    """The tokens of a soak, and its journal."""

    folder: Path

    @staticmethod
    def of_this_process() -> "Faults | None":
        """Give those that the environment names; None outside of a soak."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return Faults(Path(folder)) if folder else None

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "journal.jsonl")

    def release(self, point: str) -> None:
        """Let the next process that comes to a point die there."""
        self._tokens.mkdir(parents=True, exist_ok=True)
        (self._tokens / f"{point}.{secrets.token_hex(4)}").touch()

    def withdraw(self) -> int:
        """Take back all tokens that nobody came for; give how many."""
        left = list(self._tokens.glob("*"))
        for token in left:
            token.unlink(missing_ok=True)
        return len(left)

    def claims(self, point: str) -> bool:
        """Take a token of a point, if there is one."""
        for token in self._tokens.glob(f"{point}.*"):
            try:
                token.unlink()
            except FileNotFoundError:
                continue
            return True
        return False

    def die_at(self, point: str, **where: Any) -> None:
        """End this process as a machine ends that loses its power, if a token says so."""
        if self.claims(point):
            self.die(point, **where)

    def die(self, point: str, **where: Any) -> None:
        """End this process for a token that it has taken."""
        self.journal.note("fault", point=point, **where)
        os.kill(os.getpid(), signal.SIGKILL)

    def stop_at(self, point: str, **where: Any) -> None:
        """Stop this process until somebody lets it go on, if a token says so."""
        if self.claims(point):
            self.journal.note("fault", point=point, **where)
            os.kill(os.getpid(), signal.SIGSTOP)

    @property
    def _tokens(self) -> Path:
        return self.folder / "tokens"
