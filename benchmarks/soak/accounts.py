"""What the journal tells: how much computing was in vain, and how often each fault happened. No product imported.

The seconds of a computation are those for which it had its worker, the start of a worker included: until its end, or
the death of its process, without the time for which the process was stopped. A computation is wasted unless its result
is the one that was published: its key has a manifest with just the seconds that its worker measured, which no two
computations share. Of one that was interrupted, what came before its last checkpoint is kept, if a later attempt went
on from there: it saved none at that step or an earlier one.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Computation:
    """One attempt at a task."""

    key: str
    stage: str
    began: float
    """Seconds since the epoch."""
    ended: float
    seconds: float
    useful: bool
    why: str
    """How it ended."""
    kept: float
    """Seconds before a checkpoint from which a later attempt went on."""

    @property
    def wasted(self) -> float:
        """Give the seconds that were in vain."""
        return 0.0 if self.useful else max(0.0, self.seconds - self.kept)


def computations(journal: Sequence[Line], published: Mapping[str, Iterable[float]]) -> list[Computation]:
    """Give all of them; `published` holds the seconds of the manifests by task key."""
    ends = {line["computation"]: line for line in journal if line["what"] in ("computed", "gave-up")}
    deaths = _deaths(journal)
    last = max((line["at"] for line in journal), default=0.0)
    saved = _used_checkpoints(journal)
    found: list[Computation] = []
    for line in journal:
        if line["what"] != "began":
            continue
        end, died = ends.get(line["computation"]), _after(deaths.get(line["pid"], []), line["at"], last)
        ended = end["at"] if end else died
        seconds = max(0.0, ended - line["at"] - _stopped(journal, line["pid"], line["at"], ended))
        why = end.get("why", "computed") if end else "died"
        useful = why == "computed" and end is not None and end["seconds"] in set(published.get(line["key"], ()))
        place = (line["key"], line["epoch"])
        until = saved[place] if place in saved else line["at"]
        kept = max(0.0, until - line["at"] - _stopped(journal, line["pid"], line["at"], until))
        found.append(Computation(line["key"], line["stage"], line["at"], ended, seconds, useful, why, kept))
    return found


def wasted_share(found: Iterable[Computation]) -> float:
    """Give the share of all computing seconds that were in vain."""
    found = list(found)
    return sum(it.wasted for it in found) / max(1e-9, sum(it.seconds for it in found))


def point_hits(journal: Sequence[Line], point: str) -> int:
    """Say how often a named point was met; a lease only where another process computed in place of a stopped holder."""
    hits = [line for line in journal if line["what"] == "fault" and line["point"] == point]
    if point != "lease-takeover":
        return len(hits)
    return sum(any(_took_over(line, hit) for line in journal) for hit in hits)


def long_stops(journal: Sequence[Line], seconds: float) -> int:
    """Say how many services were stopped for at least so long and went on."""
    count = 0
    for line in journal:
        if line["what"] == "stopped":
            went_on = [it["at"] for it in journal if it["what"] == "went-on" and it["process"] == line["process"]]
            count += any(at - line["at"] >= seconds for at in went_on)
    return count


def restarts(journal: Sequence[Line], server: str) -> int:
    """Say how often a server was restarted."""
    return sum(line["what"] == "restarted" and line["server"] == server for line in journal)


def kills(journal: Sequence[Line]) -> int:
    """Say how many processes were killed at a random moment."""
    return sum(line["what"] == "killed" for line in journal)


def lapses(journal: Sequence[Line]) -> int:
    """Say how often a holder could not renew its lease: it was stopped, or the store was away."""
    held = sum(line["what"] == "fault" and line["point"] == "lease-takeover" for line in journal)
    return held + sum(line["what"] == "stopped" for line in journal) + restarts(journal, "store")


def at_once(found: Sequence[Computation]) -> int:
    """Say how many computations began while another of the same key was at work."""
    by_key: dict[str, list[Computation]] = {}
    for it in found:
        by_key.setdefault(it.key, []).append(it)
    return sum(
        any(other is not it and other.began <= it.began < other.ended for other in same)
        for same in by_key.values()
        for it in same
    )


def _used_checkpoints(journal: Sequence[Line]) -> dict[tuple[str, int], float]:
    """Give when each attempt at a task, by key and epoch, saved the last checkpoint that a later one went on from."""
    steps: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in journal:
        if line["what"] == "checkpoint":
            steps[line["key"]][line["epoch"]][line["step"]] = line["saved"]
    keys = {line["computation"]: (line["key"], line["epoch"]) for line in journal if line["what"] == "began"}
    done = {keys[line["computation"]] for line in journal if line["what"] == "computed"}
    found: dict[tuple[str, int], float] = {}
    for key, attempts in steps.items():
        for epoch, saved in attempts.items():
            later = [it for it in sorted(attempts) if it > epoch]
            finished = any(other == key and it > epoch for other, it in done)
            if min(attempts[later[0]]) > max(saved) if later else finished:
                found[key, epoch] = saved[max(saved)]
    return found


def _took_over(line: Line, hit: Line) -> bool:
    later = line["what"] == "began" and line["pid"] != hit["pid"] and line["at"] > hit["at"]
    return later and line["key"] == hit["key"] and line["epoch"] > hit["epoch"]


def _deaths(journal: Sequence[Line]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for line in journal:
        if line["what"] == "fault" and line["point"] != "lease-takeover":
            found.setdefault(line["pid"], []).append(line["at"])
        if line["what"] in ("killed", "died"):
            found.setdefault(line["process"], []).append(line["at"])
    return found


def _after(times: Iterable[float], start: float, otherwise: float) -> float:
    return min((at for at in times if at >= start), default=otherwise)


def _stopped(journal: Sequence[Line], pid: int, start: float, end: float) -> float:
    """Give for how long a process was stopped between two times."""
    total = 0.0
    for line in journal:
        holder = line["what"] == "fault" and line["point"] == "lease-takeover" and line["pid"] == pid
        if holder or (line["what"] == "stopped" and line["process"] == pid):
            ons = [it["at"] for it in journal if it["what"] == "went-on" and it["process"] == pid]
            on = _after(ons, line["at"], end)
            total += max(0.0, min(on, end) - max(line["at"], start))
    return total
