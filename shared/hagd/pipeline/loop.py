"""The loop of one stage: the one thing that starts work, in every deployment.

    claim -> validate -> manifest there? pass it on -> lease -> executor -> manifest -> fact and next request -> ack

A task that its stage divides becomes one request per shard, and the last shard to be done asks for their join.
Every step can be repeated after a crash at any point: outputs are named by content, the first manifest wins, an event
that was appended is not appended twice, and the claim is given up last.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from hagd.artifacts.clock import Clock, SystemClock
from hagd.artifacts.leases import Lease, LeaseTable
from hagd.artifacts.manifests import Manifest, find_result, publish_manifest
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import ArtifactStore
from hagd.errors import (
    ArtifactNotFoundError,
    CancelledError,
    HagdError,
    StoreFullError,
    UnavailableError,
    UnservedVersionError,
    WorkerDiedError,
)
from hagd.events.envelope import SCHEMA_VERSION, Envelope, event_id
from hagd.events.log import Delivery, EventLog
from hagd.events.topics import LANES, PROGRESSED, fact_topic, requested_topic
from hagd.execution.checkpoints import clear_checkpoints
from hagd.execution.executor import Executor, Task
from hagd.execution.wire import Failure, failure_of
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.control import RestWatch, StageControl
from hagd.pipeline.dead_letters import bury
from hagd.pipeline.leasekeeper import LeaseKeeper
from hagd.pipeline.places import Place, Places
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import Outcome, OutcomeStatus, StageState, Standing
from hagd.pipeline.submission import CLAIM_SECONDS, announce, announce_end, end_run
from hagd.pipeline.watch import StageWatch
from hagd.pipeline.work import JOIN, WHOLE, Work, are_there, request_for, shard_keys, work_of
from hagd.telemetry.tracing import current_traceparent

OnProgress = Callable[[str, float, float, str], None]
"""`(stage_id, done, total, message)`"""

MAX_WORKER_DEATHS: Final = 5
MAX_HEALINGS: Final = 3
RETRY_SECONDS: Final = (10.0, 120.0, 1800.0)
"""Waits after errors of a task that may pass; after the last one it is given up."""
BATCH_TURN: Final = 4
"""Every so many claims the batch lane goes first, so that it never stands still."""
_PROGRESS_EVENT_SECONDS: Final = 2.0
_VERDICTS: Final[Mapping[str, OutcomeStatus]] = {"verified": "verified", "refuted": "refuted"}
_LOG: Final = logging.getLogger(__name__)


def _ignore(stage_id: str, done: float, total: float, message: str) -> None:
    """Drop progress that nobody asked for."""


@dataclass
class StageLoop:
    """Works off the requests of one stage. One thread per loop."""

    spec: StageSpec
    log: EventLog
    store: ArtifactStore
    runs: RunStore
    executor: Executor
    leases: LeaseTable
    clock: Clock = field(default_factory=SystemClock)
    on_progress: OnProgress = _ignore
    stop: threading.Event = field(default_factory=threading.Event)
    """Set from outside to stop the task at hand and leave its request for later."""
    draining: threading.Event = field(default_factory=threading.Event)
    """Set from outside to claim nothing more; the task at hand goes on."""
    watch: StageWatch = field(default_factory=StageWatch)
    """Told what happens here, for whoever observes the process."""
    places: Places = field(default_factory=Places)
    """Which tasks may be at work at once, shared by all loops of the executor."""
    rest: RestWatch | None = None
    """Says when the stage is to rest, shared by its loops; a watch of its own when None."""
    spare: bool = False
    """Whether this loop is one more than there are places: it passes on results that are there while all are taken.
    It leaves the batch lane alone, lest it should hold one of its requests in front of a person's."""
    _reported_at: float = field(default=-math.inf, init=False)
    _turn: int = field(default=0, init=False)
    _last_death: str = field(default="", init=False)

    def run(self) -> None:
        """Work until `stop` or `draining` is set; an outage of log or store is waited out."""
        while not (self.stop.is_set() or self.draining.is_set()):
            try:
                busy = self.step()
                self.watch.paused(self.spec.id, self._is_paused())
            except (UnavailableError, StoreFullError) as error:
                _LOG.warning("stage %s waits: %s", self.spec.id, error.message)
                self.watch.paused(self.spec.id, True)
                busy = False
                self.stop.wait(1.0)
            if not busy:
                self.stop.wait(0.1)

    def step(self) -> bool:
        """Handle one request; False when there is none, or the stage is to rest.

        Raises:
            StoreFullError, UnavailableError: the store or the log; the request is kept for later.
        """
        delivery = None if self._is_paused() else self.log.claim(self._topics(), CLAIM_SECONDS)
        if delivery is None:
            return False
        self._turn += 1
        try:
            with self.watch.request(self.spec.id, delivery):
                self._handle_or_fail(delivery)
        except BaseException:
            # Also KeyboardInterrupt: whoever comes next need not wait for the claim to run out.
            with suppress(HagdError):
                self.log.release(delivery)
            raise
        return True

    def _is_paused(self) -> bool:
        if self.rest is None:
            self.rest = RestWatch(StageControl(self.store), self.spec.id, self.clock)
        return self.rest.is_paused()

    def _topics(self) -> list[str]:
        if self.spare:
            return [requested_topic(self.spec.id, "interactive")]
        lanes = LANES if (self._turn + 1) % BATCH_TURN else LANES[::-1]
        return [requested_topic(self.spec.id, lane) for lane in lanes]

    def _handle_or_fail(self, delivery: Delivery) -> None:
        try:
            self._handle(delivery)
        except HagdError as error:
            if error.transient or isinstance(error, StoreFullError):
                raise
            # What follows from it is too large to be written, or its run was deleted a moment ago. A loop that broke
            # over one request would break over it again after every restart.
            self._fail(delivery, failure_of(error))

    def _handle(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        if not self._is_served(envelope):
            self.watch.settled("unserved")
            self.log.release(delivery, RETRY_SECONDS[0])
            return
        standing = self.runs.standing(envelope.run_id)
        if not standing.exists:
            text = f"there is no run {envelope.run_id!r}"
            self._fail(delivery, Failure("unknown-name", text, "it was never submitted, or its store was lost"))
            return
        if self._is_over(envelope, standing):
            self.watch.settled("over")
            self.log.ack(delivery)
            return
        try:
            work = work_of(self.spec, envelope, self.store)
            shards = shard_keys(self.spec, envelope)
        except UnavailableError:
            raise
        except HagdError as error:
            self._settle(delivery, error, ())
            return
        except Exception as error:
            # A stage may raise anything over a config that it did not expect: it is the fault of one request.
            self._fail(delivery, failure_of(error))
            return
        self.watch.task(work.key)
        manifest = find_result(self.store, work.key)
        if manifest is not None:
            self._publish(delivery, manifest, shards, cached=True)
        elif shards and envelope.part == WHOLE:
            self._divide(delivery, work.key, shards)
        else:
            # A task that waits for its place has no lease: a crash of this process is not held against it.
            with self.places.taken(lambda: self._hold(delivery)) as place:
                if place.when == "late" and self._is_over(envelope):
                    self.watch.settled("over")
                    self.log.ack(delivery)
                elif place.when == "late" and self._is_paused():
                    self.watch.settled("interrupted")
                    self.log.release(delivery)
                elif place.when != "never":
                    self._lease(delivery, work, shards, place)

    def _hold(self, delivery: Delivery) -> bool:
        """Keep a request that waits; False when the loop is to end, or the request is over or not ours any more."""
        envelope = delivery.envelope
        if self.stop.is_set() or self.draining.is_set():
            self.log.release(delivery)
        elif self.runs.is_cancelled(envelope.run_id, envelope.generation) and self._is_over(envelope):
            self.watch.settled("over")
            self.log.ack(delivery)
            return False
        elif self.log.extend(delivery, CLAIM_SECONDS):
            return True
        self.watch.settled("interrupted")
        return False

    def _lease(self, delivery: Delivery, work: Work, shards: Sequence[str], place: Place) -> None:
        lease = self.leases.acquire(work.key)
        if lease is not None:
            self._work(delivery, work, shards, lease, place)
        else:
            self.watch.settled("waiting")
            self._report(delivery, 0.0, 0.0, "another process computes this; waiting")
            self.log.release(delivery, 1.0)

    def _is_served(self, envelope: Envelope) -> bool:
        entry = envelope.plan[envelope.stage_index]
        newer = envelope.schema_version > SCHEMA_VERSION
        return not newer and entry.semantics_version == self.spec.semantics_version

    def _is_over(self, envelope: Envelope, standing: Standing | None = None) -> bool:
        """Say whether nobody waits for the request any more; ends the run when it was cancelled.

        `standing` is what was learned of the run a moment ago; it is looked up when None.
        """
        standing = standing or self.runs.standing(envelope.run_id)
        if standing.generation != envelope.generation:
            return True
        if standing.ended:
            # Whoever wrote the outcome may have died before it was told.
            if (outcome := self.runs.outcome(envelope.run_id, envelope.generation)) is not None:
                announce_end(envelope, outcome, self.log)
            return True
        if standing.cancel_requested:
            end_run(envelope, Outcome("cancelled", self.spec.id), self.runs, self.log)
            return True
        return False

    def _divide(self, delivery: Delivery, key: str, shards: Sequence[str]) -> None:
        """Ask for every shard in place of the whole."""
        envelope = delivery.envelope
        place = (envelope.run_id, envelope.generation, envelope.stage_index)
        self.runs.start_stage(*place, StageState(self.spec.id, "running", key))
        self.runs.divide_stage(*place, self.spec.id, shards)
        for number in range(len(shards)):
            self.log.append(*request_for(self.spec, envelope, str(number)))
        self.watch.settled("divided")
        self._report(delivery, 0.0, len(shards), f"divided into {len(shards)} shards")
        self.log.ack(delivery)

    def _work(self, delivery: Delivery, work: Work, shards: Sequence[str], lease: Lease, place: Place) -> None:
        envelope = delivery.envelope
        if lease.attempts >= MAX_WORKER_DEATHS:
            self.leases.forgive(lease)
            text = f"stage {self.spec.id!r} lost its worker {lease.attempts} times{self._last_death}"
            self._fail(delivery, Failure("worker-killer", text, "likely a lack of memory: choose smaller settings"))
            return
        if envelope.part == WHOLE:
            started = StageState(self.spec.id, "running", work.key)
            self.runs.start_stage(envelope.run_id, envelope.generation, envelope.stage_index, started)
        self._report(delivery, 0.0, 0.0, "starting")
        keeper = LeaseKeeper(
            self.leases,
            lease,
            extend=lambda: self.log.extend(delivery, CLAIM_SECONDS),
            is_cancelled=lambda: self.runs.is_cancelled(envelope.run_id, envelope.generation),
        )
        try:
            with keeper, self.watch.computation(self.spec.id):
                # Somebody may have finished between the look at the manifest and the lease.
                found = None if lease.is_first else find_result(self.store, work.key)
                manifest = found or self._compute(delivery, work, keeper, place)
        except WorkerDiedError as error:
            self.leases.release(keeper.lease, worker_died=True)
            self._last_death = f"; at last {error.message}"
            self.watch.settled("died")
            self._report(delivery, 0.0, 0.0, f"{error.message}; trying again")
            self.log.release(delivery, 1.0)
        except HagdError as error:
            self.leases.release(keeper.lease)
            self._settle(delivery, error, work.inputs.values())
        except BaseException:
            with suppress(HagdError):
                self.leases.release(keeper.lease)
            raise
        else:
            self.leases.forgive(keeper.lease)
            self._publish(delivery, manifest, shards, cached=False)

    def _compute(self, delivery: Delivery, work: Work, keeper: LeaseKeeper, place: Place) -> Manifest:
        run_id, trace, epoch = delivery.envelope.run_id, current_traceparent(), keeper.lease.epoch
        task = Task(self.spec.id, work.key, epoch, work.run, work.config, work.inputs, work.outputs, run_id, trace)
        result = self.executor.execute(
            task,
            self.store,
            lambda done, total, message: self._report(delivery, done, total, message),
            lambda: keeper.should_stop() or self.stop.is_set(),
        )
        # The worker is free; the next task need not wait until this result is announced.
        place.leave()
        found = Manifest(
            work.key,
            self.spec.id,
            result.outputs,
            result.compute_fingerprint,
            result.seconds,
            result.peak_rss_bytes,
            verdict=result.verdict,
        )
        manifest = publish_manifest(self.store, found)
        if manifest.outputs != found.outputs:
            self.watch.lost_race()
        if result.has_checkpoints or not keeper.lease.is_first:
            clear_checkpoints(self.store, work.key)
        return manifest

    def _settle(self, delivery: Delivery, error: HagdError, inputs: Iterable[ArtifactRef]) -> None:
        """Decide what an error of a task means for its request."""
        envelope = delivery.envelope
        if isinstance(error, StoreFullError):
            raise error
        if isinstance(error, CancelledError):
            # Cancelled by somebody, or only interrupted here: then the request waits for the next process.
            if self._is_over(envelope):
                self.watch.settled("cancelled")
                self.log.ack(delivery)
            else:
                self.watch.settled("interrupted")
                self.log.release(delivery)
        elif isinstance(error, UnavailableError | UnservedVersionError):
            # Nothing that the request did: it is waited out, however long, and counts for nothing afterwards.
            self._try_later(delivery, error, RETRY_SECONDS[0])
        elif error.transient and delivery.failures < len(RETRY_SECONDS):
            self._try_later(delivery, error, RETRY_SECONDS[delivery.failures], failed=True)
        elif self._heal(envelope, inputs, lost=envelope.part == JOIN and isinstance(error, ArtifactNotFoundError)):
            self.watch.settled("healed")
            self.log.ack(delivery)
        else:
            self._fail(delivery, failure_of(error))

    def _try_later(self, delivery: Delivery, error: HagdError, delay: float, *, failed: bool = False) -> None:
        self.watch.retries(self.spec.id, delay)
        self._report(delivery, 0.0, 0.0, f"{error.message}; trying again in {delay:.0f} s")
        self.log.release(delivery, delay, failed=failed)

    def _heal(self, envelope: Envelope, inputs: Iterable[ArtifactRef], *, lost: bool) -> bool:
        """Start the run again when an input of the task is lost or damaged: its stage then computes it anew.

        `lost` says that the result of a shard is known to be lost.
        """
        damaged = {ref for ref in inputs if not self.store.check_blob(ref)}
        told = envelope.data.get("healings", 0)
        # Anybody may have written the event; what is no number counts as enough.
        healings = told if isinstance(told, int) else MAX_HEALINGS
        request = self.runs.request(envelope.run_id)
        if not (damaged or lost) or damaged & set(request.inputs.values()) or healings >= MAX_HEALINGS:
            return False
        _LOG.warning("%d inputs of stage %s are damaged and are computed again", len(damaged) + lost, self.spec.id)
        generation = self.runs.reopen(envelope.run_id, after=envelope.generation)
        announce(envelope.run_id, generation, request, self.log, healings + 1)
        return True

    def _fail(self, delivery: Delivery, failure: Failure) -> None:
        self.watch.settled("failed")
        bury(delivery.envelope, self.spec.id, failure, delivery.attempts, self.log)
        end_run(delivery.envelope, Outcome("failed", self.spec.id, failure), self.runs, self.log)
        self.log.ack(delivery)

    def _publish(self, delivery: Delivery, manifest: Manifest, shards: Sequence[str], *, cached: bool) -> None:
        """Announce a result and ask for what follows from it, or end the run."""
        envelope = delivery.envelope
        # A result that was there already took no time in which somebody could have lost interest.
        if not cached and self._is_over(envelope):
            self.watch.settled("over")
            self.log.ack(delivery)
            return
        self.watch.settled("cached" if cached else "done")
        if envelope.part in (WHOLE, JOIN):
            self._finish(envelope, manifest, cached=cached)
        elif are_there(shards, self.store):
            self.log.append(*request_for(self.spec, envelope, JOIN))
        self.log.ack(delivery)

    def _finish(self, envelope: Envelope, manifest: Manifest, *, cached: bool) -> None:
        envelope = replace(envelope, part=WHOLE)
        run_id, generation, index = envelope.run_id, envelope.generation, envelope.stage_index
        state = StageState(
            self.spec.id,
            "cached" if cached else "done",
            manifest.task_key,
            manifest.outputs,
            manifest.seconds,
            manifest.peak_rss_bytes,
        )
        self.runs.finish_stage(run_id, generation, index, state)
        if cached:
            self.on_progress(self.spec.id, 1.0, 1.0, "already computed")
        data = state.to_json()
        if index + 1 < len(envelope.plan):
            self._emit(fact_topic(self.spec.id), manifest, replace(envelope, data=data))
            following = replace(envelope, stage_index=index + 1, inputs={**envelope.inputs, **manifest.outputs})
            self._emit(requested_topic(envelope.plan[index + 1].stage_id, envelope.lane), manifest, following)
        else:
            verdict: OutcomeStatus = _VERDICTS.get(manifest.verdict, "no claim")
            # Who reads facts and not the store learns from the last one how the run ended.
            self._emit(fact_topic(self.spec.id), manifest, replace(envelope, data={**data, "verdict": verdict}))
            self.runs.finish(run_id, generation, Outcome(verdict, self.spec.id), envelope.principal)

    def _emit(self, topic: str, manifest: Manifest, envelope: Envelope) -> None:
        identity = event_id(envelope.run_id, topic, manifest.task_key, envelope.generation)
        self.log.append(topic, replace(envelope, id=identity))

    def _report(self, delivery: Delivery, done: float, total: float, message: str) -> None:
        """Tell the process at hand at once, and observers every few seconds; they can do without."""
        self.on_progress(self.spec.id, done, total, message)
        now = self.clock.monotonic()
        if now - self._reported_at < _PROGRESS_EVENT_SECONDS:
            return
        self._reported_at = now
        envelope = delivery.envelope
        data = {"stage_id": self.spec.id, "done": done, "total": total, "message": message}
        identity = event_id(envelope.run_id, PROGRESSED, f"{delivery.claim}/{now}", envelope.generation)
        with suppress(HagdError):
            self.log.append(PROGRESSED, replace(envelope, id=identity, data=data))
