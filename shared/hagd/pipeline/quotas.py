"""How many unfinished runs a principal may have at once.

Every run that is going on has a mark under its principal, written before its request and removed with its outcome.
A mark may outlive a crash, so those of ended runs are swept when the limit is met. The limit is soft by as many runs
as are submitted at one moment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hagd.artifacts.store import ArtifactStore
from hagd.errors import QuotaExceededError

_MARKS: Final = "active"


@dataclass(frozen=True)
class ActiveRuns:
    """The marks of the runs that are going on."""

    store: ArtifactStore

    def mark(self, principal: str, run_id: str) -> None:
        """Note that a run goes on."""
        self.store.put_if_absent(f"{_MARKS}/{principal}/{run_id}", b"{}")

    def clear(self, principal: str, run_id: str) -> None:
        """Note that a run has ended."""
        self.store.delete(f"{_MARKS}/{principal}/{run_id}")

    def all(self) -> list[str]:
        """List the runs that go on, as far as marks tell."""
        return [key.rpartition("/")[2] for key in self.store.list(f"{_MARKS}/")]

    def of(self, principal: str) -> list[str]:
        """List the runs of a principal that go on, as far as marks tell."""
        return [key.rpartition("/")[2] for key in self.store.list(f"{_MARKS}/{principal}/")]


@dataclass(frozen=True)
class Quota:
    """A limit on the unfinished runs of each principal."""

    most_runs: int

    def check(self, principal: str, active: ActiveRuns, has_ended: Callable[[str], bool]) -> None:
        """Let another run of a principal pass.

        Raises:
            QuotaExceededError: so many of its runs go on that it has to wait.
        """
        found = active.of(principal)
        if len(found) < self.most_runs:
            return
        ended = [run_id for run_id in found if has_ended(run_id)]
        for run_id in ended:
            active.clear(principal, run_id)
        if len(found) - len(ended) >= self.most_runs:
            raise QuotaExceededError(
                f"{principal!r} has {len(found) - len(ended)} runs that go on, {self.most_runs} are allowed",
                "wait until one ends, or cancel one: `hagd run list`",
            )
