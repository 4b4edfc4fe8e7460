"""The loop of one stage: the one thing that starts work, in every deployment.

    claim -> validate -> manifest there? pass it on -> lease -> executor -> manifest -> fact and next request -> ack

Every step can be repeated after a crash at any point: outputs are named by content, the first manifest wins, an event
that was appended is not appended twice, and the claim is given up last.
"""

import logging
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hagd.artifacts.clock import Clock, SystemClock
from hagd.artifacts.leases import Lease, LeaseTable
from hagd.artifacts.manifests import Manifest, is_whole, publish_manifest, read_manifest
from hagd.artifacts.store import ArtifactStore, get_document
from hagd.errors import (
    CancelledError,
    HagdError,
    InvalidInputError,
    StoreFullError,
    UnavailableError,
    WorkerDiedError,
)
from hagd.events.envelope import SCHEMA_VERSION, Envelope, event_id
from hagd.events.log import Delivery, EventLog
from hagd.events.topics import PROGRESSED, RUN_CANCELLED, fact_topic, requested_topic
from hagd.execution.checkpoints import clear_checkpoints
from hagd.execution.executor import Executor, Task
from hagd.execution.wire import Failure, failure_of
from hagd.pipeline.contract import StageSpec, task_key
from hagd.pipeline.dead_letters import bury
from hagd.pipeline.leasekeeper import LeaseKeeper
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import Outcome, OutcomeStatus, StageState
from hagd.pipeline.submission import CLAIM_SECONDS, announce, end_run

OnProgress = Callable[[str, float, float, str], None]
"""`(stage_id, done, total, message)`"""

MAX_WORKER_DEATHS: Final = 5
MAX_HEALINGS: Final = 3
RETRY_SECONDS: Final = (10.0, 120.0, 1800.0)
_PROGRESS_EVENT_SECONDS: Final = 2.0
_VERDICTS: Final[dict[Any, OutcomeStatus]] = {"verified": "verified", "refuted": "refuted"}
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
    _reported_at: float = field(default=-math.inf, init=False)
    _last_death: str = field(default="", init=False)

    def run(self) -> None:
        """Work until `stop` is set; an outage of log or store is waited out."""
        while not self.stop.is_set():
            try:
                busy = self.step()
            except (UnavailableError, StoreFullError) as error:
                _LOG.warning("stage %s waits: %s", self.spec.id, error.message)
                busy = False
                self.stop.wait(1.0)
            if not busy:
                self.stop.wait(0.1)

    def step(self) -> bool:
        """Handle one request; False when there is none.

        Raises:
            StoreFullError, UnavailableError: the store or the log; the request is kept for later.
        """
        delivery = self.log.claim([requested_topic(self.spec.id)], CLAIM_SECONDS)
        if delivery is None:
            return False
        try:
            self._handle(delivery)
        except BaseException:
            # Also KeyboardInterrupt: whoever comes next need not wait for the claim to run out.
            with suppress(HagdError):
                self.log.release(delivery)
            raise
        return True

    def _handle(self, delivery: Delivery) -> None:
        envelope = delivery.envelope
        if not self._is_served(envelope):
            self.log.release(delivery, RETRY_SECONDS[0])
            return
        if self._is_over(envelope):
            self.log.ack(delivery)
            return
        try:
            key = self._key(envelope)
        except HagdError as error:
            self._fail(delivery, failure_of(error))
            return
        manifest = self._finished(key)
        if manifest is not None:
            self._publish(delivery, manifest, cached=True)
            return
        lease = self.leases.acquire(key)
        if lease is None:
            self._report(delivery, 0.0, 0.0, "another process computes this; waiting")
            self.log.release(delivery, 1.0)
            return
        self._work(delivery, key, lease)

    def _is_served(self, envelope: Envelope) -> bool:
        entry = envelope.plan[envelope.stage_index]
        newer = envelope.schema_version > SCHEMA_VERSION
        return not newer and entry.semantics_version == self.spec.semantics_version

    def _is_over(self, envelope: Envelope) -> bool:
        """Say whether nobody waits for the request any more; ends the run when it was cancelled."""
        run_id, generation = envelope.run_id, envelope.generation
        if self.runs.generation(run_id) != generation or self.runs.outcome(run_id, generation) is not None:
            return True
        if self.runs.is_cancelled(run_id, generation):
            end_run(envelope, Outcome("cancelled", self.spec.id), self.runs, self.log, RUN_CANCELLED)
            return True
        return False

    def _key(self, envelope: Envelope) -> str:
        missing = sorted(set(self.spec.inputs) - set(envelope.inputs))
        if missing:
            raise InvalidInputError(
                f"the request lacks {', '.join(missing)}", "add the stage that makes it to the plan"
            )
        return task_key(self.spec, envelope.inputs, envelope.plan[envelope.stage_index].config)

    def _finished(self, key: str) -> Manifest | None:
        manifest = read_manifest(self.store, key)
        return manifest if manifest is not None and is_whole(self.store, manifest) else None

    def _work(self, delivery: Delivery, key: str, lease: Lease) -> None:
        envelope = delivery.envelope
        if lease.attempts >= MAX_WORKER_DEATHS:
            self.leases.forgive(lease)
            text = f"stage {self.spec.id!r} lost its worker {lease.attempts} times{self._last_death}"
            self._fail(delivery, Failure("worker-killer", text, "likely a lack of memory: choose smaller settings"))
            return
        self.runs.start_stage(
            envelope.run_id, envelope.generation, envelope.stage_index, StageState(self.spec.id, "running", key)
        )
        self._report(delivery, 0.0, 0.0, "starting")
        keeper = LeaseKeeper(
            self.leases,
            lease,
            extend=lambda: self.log.extend(delivery, CLAIM_SECONDS),
            is_cancelled=lambda: self.runs.is_cancelled(envelope.run_id, envelope.generation),
        )
        try:
            with keeper:
                # Somebody may have finished between the look at the manifest and the lease.
                manifest = self._finished(key) or self._compute(delivery, key, lease.epoch, keeper)
        except WorkerDiedError as error:
            self.leases.release(keeper.lease, worker_died=True)
            self._last_death = f"; at last {error.message}"
            self._report(delivery, 0.0, 0.0, f"{error.message}; trying again")
            self.log.release(delivery, 1.0)
        except HagdError as error:
            self.leases.release(keeper.lease)
            self._settle(delivery, error)
        except BaseException:
            with suppress(HagdError):
                self.leases.release(keeper.lease)
            raise
        else:
            self.leases.forgive(keeper.lease)
            self._publish(delivery, manifest, cached=False)

    def _compute(self, delivery: Delivery, key: str, epoch: int, keeper: LeaseKeeper) -> Manifest:
        envelope = delivery.envelope
        inputs = {role: envelope.inputs[role] for role in self.spec.inputs}
        config = envelope.plan[envelope.stage_index].config
        task = Task(self.spec.id, key, epoch, self.spec.run, config, inputs, self.spec.outputs)
        result = self.executor.execute(
            task,
            self.store,
            lambda done, total, message: self._report(delivery, done, total, message),
            lambda: keeper.should_stop() or self.stop.is_set(),
        )
        found = Manifest(
            key, self.spec.id, result.outputs, result.compute_fingerprint, result.seconds, result.peak_rss_bytes
        )
        manifest = publish_manifest(self.store, found)
        clear_checkpoints(self.store, key)
        return manifest

    def _settle(self, delivery: Delivery, error: HagdError) -> None:
        """Decide what an error of a task means for its request."""
        envelope = delivery.envelope
        if isinstance(error, StoreFullError):
            raise error
        if isinstance(error, CancelledError):
            # Cancelled by somebody, or only interrupted here: then the request waits for the next process.
            if self._is_over(envelope):
                self.log.ack(delivery)
            else:
                self.log.release(delivery)
        elif error.transient:
            delay = RETRY_SECONDS[min(delivery.attempts, len(RETRY_SECONDS)) - 1]
            self._report(delivery, 0.0, 0.0, f"{error.message}; trying again in {delay:.0f} s")
            self.log.release(delivery, delay)
        elif self._heal(envelope):
            self.log.ack(delivery)
        else:
            self._fail(delivery, failure_of(error))

    def _heal(self, envelope: Envelope) -> bool:
        """Start the run again when an input of the task is lost or damaged: its stage then computes it anew."""
        inputs = {role: envelope.inputs[role] for role in self.spec.inputs}
        damaged = {role for role, ref in inputs.items() if not self.store.check_blob(ref)}
        healings = int(envelope.data.get("healings", 0))
        request = self.runs.request(envelope.run_id)
        given = {role for role in damaged if request.inputs.get(role) == inputs[role]}
        if not damaged or given or healings >= MAX_HEALINGS:
            return False
        _LOG.warning("inputs %s of stage %s are damaged and are computed again", sorted(damaged), self.spec.id)
        generation = self.runs.reopen(envelope.run_id, after=envelope.generation)
        announce(envelope.run_id, generation, request, self.log, healings + 1)
        return True

    def _fail(self, delivery: Delivery, failure: Failure) -> None:
        bury(delivery.envelope, self.spec.id, failure, delivery.attempts, self.log)
        end_run(delivery.envelope, Outcome("failed", self.spec.id, failure), self.runs, self.log)
        self.log.ack(delivery)

    def _publish(self, delivery: Delivery, manifest: Manifest, *, cached: bool) -> None:
        """Announce a result and ask for the next stage, or end the run."""
        envelope = delivery.envelope
        if self._is_over(envelope):
            self.log.ack(delivery)
            return
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
        self._emit(fact_topic(self.spec.id), manifest, replace(envelope, data=state.to_json()))
        if index + 1 < len(envelope.plan):
            following = replace(envelope, stage_index=index + 1, inputs={**envelope.inputs, **manifest.outputs})
            self._emit(requested_topic(envelope.plan[index + 1].stage_id), manifest, following)
        else:
            self.runs.finish(run_id, generation, Outcome(self._verdict(manifest), self.spec.id))
        self.log.ack(delivery)

    def _emit(self, topic: str, manifest: Manifest, envelope: Envelope) -> None:
        identity = event_id(envelope.run_id, topic, manifest.task_key, envelope.generation)
        self.log.append(topic, replace(envelope, id=identity))

    def _verdict(self, manifest: Manifest) -> OutcomeStatus:
        """Give the verdict that an output of the last stage holds as `content["data"]["verdict"]`."""
        for role in self.spec.outputs:
            data = get_document(self.store, manifest.outputs[role]).content.get("data")
            if isinstance(data, dict) and data.get("verdict") in _VERDICTS:
                return _VERDICTS[data["verdict"]]
        return "no claim"

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
