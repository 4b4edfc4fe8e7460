"""Runs that nobody will end: not over, and nothing anywhere that would take them further.

A run is stalled when it has no outcome and, of its current stage, all of these hold:

- no delivery of the run waits in a work topic of the log, claimed or not;
- no process holds the lease of the stage's task, or of one of its shards, as far as can be known from here;
- nothing was written to the log about the run for a time, or ever.

A run whose delivery waits is not stalled, however long that takes: somebody has only to work it off, and the age of the
oldest unacknowledged request tells of it. What stalls runs is the loss of their events, such as that of a whole log.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from hagd.artifacts.leases import LeaseTable, Owner, has_ended
from hagd.events.log import START, EventLog, advance
from hagd.events.topics import ENTRY_STAGE, LANES, PROGRESSED, fact_topic, requested_topic
from hagd.pipeline.at_work import tasks_at_work
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import Outcome, RunState
from hagd.pipeline.submission import announce, end_run, opening_event

_ALL = 1_000_000


@dataclass(frozen=True)
class StallCheck:
    """Looks for stalled runs over a log and a store."""

    runs: RunStore
    log: EventLog
    leases: LeaseTable
    """Only read, so it may belong to nobody."""
    now: float
    """Seconds since the epoch."""
    ended: Callable[[Owner], bool] = has_ended

    def find(self, quiet: timedelta) -> list[RunState]:
        """Give the runs that are stalled, having been quiet for so long.

        Raises:
            StoreFullError, UnavailableError: the store or the log.
        """
        states = [self.runs.get(run_id) for run_id in self.runs.list()]
        going = [state for state in states if state.outcome is None]
        topics = _topics(going)
        queued = {(it.envelope.run_id, it.envelope.generation) for it in self.log.waiting(topics.work, _ALL)}
        heard = self._heard(topics.all)
        return [
            state
            for state in going
            if (state.run_id, state.generation) not in queued
            and not tasks_at_work(state, self.runs, self.leases, self.ended)
            and self.now - heard.get(state.run_id, 0.0) >= quiet.total_seconds()
        ]

    def _heard(self, topics: Sequence[str]) -> dict[str, float]:
        """Give when something was last written about each run."""
        found: dict[str, float] = {}
        for topic in topics:
            position = START
            while records := self.log.read(topic, position):
                for record in records:
                    run_id = record.envelope.run_id
                    found[run_id] = max(found.get(run_id, 0.0), record.at)
                position = advance(position, records)
        return found


@dataclass(frozen=True)
class _Topics:
    work: tuple[str, ...]
    all: tuple[str, ...]


def _topics(states: Iterable[RunState]) -> _Topics:
    """Give the topics that events of some runs may lie in."""
    stage_ids = sorted({entry.stage_id for state in states for entry in state.request.plan})
    work = tuple(requested_topic(stage_id, lane) for stage_id in [ENTRY_STAGE, *stage_ids] for lane in LANES)
    return _Topics(work, (*work, PROGRESSED, *(fact_topic(stage_id) for stage_id in stage_ids)))


def resubmit(states: Iterable[RunState], runs: RunStore, log: EventLog) -> list[str]:
    """Put runs without an outcome into the log again, each as a new generation; give their ids.

    Stages that are finished are found by their manifests. An event of the generation before that turns up after all is
    stale and changes nothing, so a run has one outcome whatever was lost. One that somebody had cancelled ends so.
    """
    done: list[str] = []
    for state in states:
        if state.outcome is not None:
            continue
        if state.cancel_requested:
            end_run(opening_event(state.run_id, state.generation, state.request), Outcome("cancelled"), runs, log)
            continue
        generation = runs.reopen(state.run_id, after=state.generation)
        announce(state.run_id, generation, state.request, log)
        done.append(state.run_id)
    return done
