"""The embedded runtime: all stages of a run driven by this process, durable across kill -9.

A run folder holds all there is to know, so a command that was interrupted goes on when it is issued again: stages
that have a whole manifest are passed over, the others are computed, and equal work gives equal bytes.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from hagd.artifacts.clock import Clock, SystemClock
from hagd.artifacts.document import Document
from hagd.artifacts.leases import LeaseTable, Owner, has_ended
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import get_document, put_document
from hagd.events.sqlite import SqliteEventLog
from hagd.execution.executor import Executor
from hagd.execution.process import ProcessExecutor
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.loop import OnProgress, StageLoop
from hagd.pipeline.request import Request
from hagd.pipeline.router import RequestRouter
from hagd.pipeline.stages import discover_stages
from hagd.pipeline.state import RunState
from hagd.pipeline.submission import announce, submit

_IDLE_SECONDS = 0.05


def _ignore(stage_id: str, done: float, total: float, message: str) -> None:
    """Drop progress that nobody asked for."""


def _always(owner: Owner) -> bool:
    """Take any owner for ended."""
    return bool(owner.name)


class EmbeddedRuntime:
    """Log, store, executor and the loops of all stages over one run folder, held for as long as it is open."""

    def __init__(
        self,
        root: Path,
        *,
        executor: Executor | None = None,
        store: Path | None = None,
        stages: Mapping[str, StageSpec] | None = None,
        threads: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Open a run folder, or make one.

        Args:
            root: the run folder.
            executor: what runs the tasks; a worker process when None.
            store: a folder of artifacts shared with other runs; inside `root` when None.
            stages: the stages by id; the installed ones when None.
            threads: CPU threads of the worker process; all that may be used when None.
            clock: time; the machine's when None.

        Raises:
            NotARunError: the folder holds something else, is of another version, or is half written.
            RunLockedError: another process works in it.
            StoreFullError, UnavailableError, CorruptArtifactError: the folder, its store or its log.
        """
        self.folder = RunFolder.prepare(root, store)
        self._lock = self.folder.lock()
        try:
            self.store, self.runs = self.folder.open_store(), self.folder.open_runs()
            self.clock = clock or SystemClock()
            self.log = SqliteEventLog(self.folder.log_path, clock=self.clock, release_claims=True)
        except BaseException:
            self._lock.release()
            raise
        self.stages = dict(stages) if stages is not None else discover_stages()
        self.executor = executor or ProcessExecutor(threads=threads, log_path=self.folder.worker_log_path)
        self.stop = threading.Event()
        self._on_progress: OnProgress = _ignore
        self.router = RequestRouter(self.log, self.runs, self.stages)
        self.loops = {stage_id: self._loop(spec) for stage_id, spec in self.stages.items()}

    def submit(self, request: Request) -> str:
        """Write a request for `serve` to work off; give its run id. Errors as of `submission.submit`."""
        return submit(request, self.runs.store, self.log, self.stages)

    def run(self, request: Request, on_progress: OnProgress | None = None) -> RunState:
        """Run a request to its outcome, going on where an earlier call was interrupted or failed.

        Raises:
            UnknownNameError, UsageError, RunConflictError: the request cannot be run here.
            StoreFullError, UnavailableError: store or log; issue the request again to go on.
        """
        self._on_progress = on_progress or _ignore
        known = self.runs.list()
        run_id = self.submit(request)
        if run_id in known:
            state = self.runs.get(run_id)
            if self._is_final(state):
                return state
            self.reopen(run_id)
        self._drive(run_id)
        return self.runs.get(run_id)

    def resume(self, run_id: str, on_progress: OnProgress | None = None) -> RunState:
        """Run a request that is already here to its outcome; errors as of `run`."""
        return self.run(self.runs.request(run_id), on_progress)

    def reopen(self, run_id: str) -> int:
        """Start a new generation of a run, which finds finished stages by their manifests; give its number."""
        generation = self.runs.reopen(run_id, after=self.runs.generation(run_id))
        announce(run_id, generation, self.runs.request(run_id), self.log)
        return generation

    def serve(self, on_progress: OnProgress | None = None) -> None:
        """Work off requests of all stages until `stop` is set, each stage in a thread of its own."""
        self._on_progress = on_progress or _ignore
        threads = [threading.Thread(target=loop.run, name=f"stage-{name}") for name, loop in self.loops.items()]
        for thread in threads:
            thread.start()
        while not self.stop.is_set():
            if not self.router.step():
                self.stop.wait(_IDLE_SECONDS)
        for thread in threads:
            thread.join()

    def load(self, ref: ArtifactRef) -> Document:
        """Give an artifact, checked against its digest.

        Raises:
            ArtifactNotFoundError, CorruptArtifactError: it is lost or damaged; running again computes it anew.
        """
        return get_document(self.store, ref)

    def save(self, document: Document) -> ArtifactRef:
        """Keep a document, to give it as an input of a request."""
        return put_document(self.store, document)

    def close(self) -> None:
        """End the worker, close the log, and let other processes in."""
        self.stop.set()
        self.executor.close()
        self.log.close()
        self._lock.release()

    def __enter__(self) -> "EmbeddedRuntime":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_final(self, state: RunState) -> bool:
        """Say whether a run has a result that is still whole."""
        if state.outcome is None or state.outcome.status in ("failed", "cancelled"):
            return False
        finished = all(stage.status in ("done", "cached") for stage in state.stages)
        return finished and all(self.store.check_blob(ref) for stage in state.stages for ref in stage.outputs.values())

    def _drive(self, run_id: str) -> None:
        while self.runs.outcome(run_id) is None:
            busy = self.router.step()
            for loop in self.loops.values():
                busy = loop.step() or busy
            if not busy:
                self.clock.sleep(_IDLE_SECONDS)

    def _report(self, stage_id: str, done: float, total: float, message: str) -> None:
        self._on_progress(stage_id, done, total, message)

    def _loop(self, spec: StageSpec) -> StageLoop:
        # The lock on the folder tells that whoever held a lease in a store of its own has ended.
        alone = self.folder.store_path.is_relative_to(self.folder.root)
        leases = LeaseTable(self.store, self.clock, ended=_always if alone else has_ended)
        return StageLoop(
            spec,
            self.log,
            self.store,
            self.runs,
            self.executor,
            leases,
            self.clock,
            self._report,
            self.stop,
        )
