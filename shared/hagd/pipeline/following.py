"""What becomes of a run, as far as facts tell: for who reads the log and neither store nor service."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from hagd.errors import UnavailableError
from hagd.events.envelope import Envelope
from hagd.events.log import START, EventLog, Position, advance
from hagd.events.topics import ENTRY_STAGE, PROGRESSED, RUN_CANCELLED, RUN_FAILED, dead_letter_topic, fact_topic
from hagd.execution.wire import Failure, error_of
from hagd.pipeline.request import Request, run_id_of
from hagd.pipeline.state import Outcome, OutcomeStatus, RunState, StageState

OnProgress = Callable[[str, float, float, str], None]
"""`(stage_id, done, total, message)`"""
_REFUSED: Final = dead_letter_topic(ENTRY_STAGE)


@dataclass
class FactFollower:
    """Follows one run. A fact may come twice, and those of an earlier generation are of no interest."""

    log: EventLog
    request: Request
    state: RunState = field(init=False)
    """The run as of the last step."""
    _positions: dict[str, Position] = field(default_factory=dict[str, Position], init=False)

    def __post_init__(self) -> None:
        run_id = run_id_of(self.request.principal, self.request.request_id)
        self.state = RunState(run_id, self.request, 0, self._pending(), None)

    def skip_refusals(self) -> None:
        """Pass over what was refused until now, before the request is sent: other requests of the same id."""
        self._read(_REFUSED)

    def step(self, on_progress: OnProgress) -> RunState:
        """Take in what is new; give the run as of now.

        Raises:
            HagdError: the request was refused, with the error that refused it.
            UnavailableError: the log does not answer.
        """
        for event in self._read(PROGRESSED):
            if self._is_current(event) and event.data.keys() >= {"stage_id", "done", "total", "message"}:
                it = event.data
                on_progress(str(it["stage_id"]), float(it["done"]), float(it["total"]), str(it["message"]))
        for topic in dict.fromkeys(fact_topic(entry.stage_id) for entry in self.request.plan):
            for event in self._read(topic):
                self._finish_stage(event)
        for topic in (RUN_FAILED, RUN_CANCELLED):
            for event in self._read(topic):
                if self._is_current(event):
                    self.state = replace(self.state, outcome=Outcome.from_json(event.data))
        for event in self._read(_REFUSED):
            if event.data.get("refused"):
                raise error_of(Failure.from_json(event.data["failure"]))
        return self.state

    def _read(self, topic: str) -> list[Envelope]:
        """Give what is new of the run in a topic."""
        position, found = self._positions.get(topic, START), list[Envelope]()
        while records := self.log.read(topic, position):
            found += [record.envelope for record in records if record.envelope.run_id == self.state.run_id]
            position = advance(position, records)
        self._positions[topic] = position
        return found

    def _pending(self) -> tuple[StageState, ...]:
        return tuple(StageState(entry.stage_id, "pending") for entry in self.request.plan)

    def _is_current(self, event: Envelope) -> bool:
        if event.generation > self.state.generation:
            self.state = replace(self.state, generation=event.generation, stages=self._pending(), outcome=None)
        return event.generation == self.state.generation

    def _finish_stage(self, event: Envelope) -> None:
        if not self._is_current(event) or event.stage_index >= len(self.state.stages):
            return
        stages, verdict = list(self.state.stages), cast(Any, event.data.get("verdict"))
        stages[event.stage_index] = StageState.from_json(event.data)
        status = cast("OutcomeStatus", verdict)
        ended = Outcome(status, stages[event.stage_index].stage_id) if verdict else self.state.outcome
        self.state = replace(self.state, stages=tuple(stages), outcome=ended)


def follow(follower: FactFollower, on_progress: OnProgress, wait: Callable[[], None]) -> RunState:
    """Follow a run to its end, with `wait` between looks; an outage of the log is waited out.

    Raises:
        HagdError: the request was refused, with the error that refused it.
    """
    while True:
        try:
            if follower.step(on_progress).outcome is not None:
                return follower.state
        except UnavailableError as error:
            on_progress(follower.request.plan[0].stage_id, 0.0, 0.0, error.message)
        wait()
