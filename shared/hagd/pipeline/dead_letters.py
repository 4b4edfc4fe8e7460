"""Requests that a stage gave up, with the reason: kept until somebody mends the cause and replays them.

A dead letter is an event of its own topic; it is never claimed. Its run has the outcome `failed`, so whoever waits
hears of it. A replay opens a new generation of the run, which finds finished stages by their manifests.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hagd.errors import HagdError, RunError, UnknownNameError
from hagd.events.envelope import Envelope, event_id
from hagd.events.log import START, EventLog, advance
from hagd.events.topics import dead_letter_topic
from hagd.execution.wire import Failure
from hagd.pipeline.runs import RunStore
from hagd.pipeline.submission import announce

_PAGE = 1000


@dataclass(frozen=True)
class DeadLetter:
    """One request that was given up."""

    envelope: Envelope
    stage_id: str
    failure: Failure
    attempts: int
    """How often the request had been claimed."""
    replayed: bool
    """The run has been opened again since, was deleted, or never took this request: nothing waits for this letter."""

    @property
    def id(self) -> str:
        return self.envelope.id

    @property
    def refused(self) -> bool:
        """Say whether the request was never taken, so that it has no part in any run."""
        return bool(self.envelope.data.get("refused"))


def bury(envelope: Envelope, stage_id: str, failure: Failure, attempts: int, log: EventLog) -> None:
    """Append a request to the dead letters of its stage; once per generation, however often it is called."""
    topic = dead_letter_topic(stage_id)
    identity = event_id(envelope.run_id, topic, str(envelope.stage_index), envelope.generation)
    data = {"stage_id": stage_id, "failure": failure.to_json(), "attempts": attempts}
    log.append(topic, replace(envelope, id=identity, data=data).shortened())


def refuse(envelope: Envelope, stage_id: str, failure: Failure, attempts: int, log: EventLog) -> None:
    """Append a request that was not taken, so that it has no part in any run: one of its id may be there already."""
    topic = dead_letter_topic(stage_id)
    identity = event_id(envelope.run_id, topic, envelope.id, envelope.generation)
    data = {"stage_id": stage_id, "failure": failure.to_json(), "attempts": attempts, "refused": True}
    log.append(topic, replace(envelope, id=identity, data=data).shortened())


def dead_letters(log: EventLog, runs: RunStore, stage_ids: Iterable[str]) -> Iterator[DeadLetter]:
    """Give the dead letters of some stages, oldest first within a stage, each once though the log may hold it twice."""
    for stage_id in stage_ids:
        position, seen = START, set[str]()
        while page := log.read(dead_letter_topic(stage_id), position, _PAGE):
            for record in page:
                if record.envelope.id not in seen:
                    seen.add(record.envelope.id)
                    yield _read(record.envelope, stage_id, runs)
            position = advance(position, page)


def find_dead_letter(log: EventLog, runs: RunStore, stage_ids: Iterable[str], prefix: str) -> DeadLetter:
    """Give the one dead letter whose id starts with `prefix`.

    Raises:
        UnknownNameError: there is none, or more than one.
    """
    found = [letter for letter in dead_letters(log, runs, stage_ids) if letter.id.startswith(prefix)]
    if len(found) != 1:
        raise UnknownNameError(
            f"{len(found)} dead letters have an id that starts with {prefix!r}", "`hagd dlq list` shows the ids"
        )
    return found[0]


def replay(letter: DeadLetter, runs: RunStore, log: EventLog) -> int:
    """Open the letter's run again; give the new generation. Replaying twice opens it once.

    Raises:
        RunError: the request was never taken; or the run has been opened again since, or does not exist any more.
    """
    run_id = letter.envelope.run_id
    if letter.refused:
        raise RunError(
            "this request was refused, so there is no run of it to open again",
            "let who asks mend it and send it again: `hagd dlq show` tells the reason",
        )
    if not runs.exists(run_id):
        raise RunError(f"run {run_id[:12]} was deleted since this letter", "send its request again")
    if letter.replayed:
        raise RunError(f"run {run_id[:12]} has gone on since this letter", "`hagd run status` shows how far it is")
    generation = runs.reopen(run_id, after=letter.envelope.generation)
    announce(run_id, generation, runs.request(run_id), log)
    return generation


def _read(envelope: Envelope, stage_id: str, runs: RunStore) -> DeadLetter:
    try:
        runs.request(envelope.run_id)
        replayed = bool(envelope.data.get("refused")) or runs.generation(envelope.run_id) > envelope.generation
    except HagdError as error:
        if error.transient:
            raise
        replayed = True
    failure = Failure.from_json(envelope.data["failure"])
    return DeadLetter(envelope, stage_id, failure, int(envelope.data["attempts"]), replayed)
