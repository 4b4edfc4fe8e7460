"""Run state, kept in the store so that any process can answer for any run.

    runs/<run_id>/request                              the request, first writer wins
    runs/<run_id>/<generation>/opened                  generation n+1 is a run that was opened again
    runs/<run_id>/<generation>/<index>-<stage>.started
    runs/<run_id>/<generation>/<index>-<stage>.shards  the keys of the parts of a divided task
    runs/<run_id>/<generation>/<index>-<stage>.done    write-once
    runs/<run_id>/<generation>/cancel
    runs/<run_id>/<generation>/outcome                 first writer wins

Opening again is what a resume after a failure, a cancel or a damaged artifact does: outcomes are never taken back,
and finished stages are found again by their task keys, not by these markers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rfc8785

from hagd.artifacts.store import ArtifactStore
from hagd.errors import CorruptArtifactError, RunConflictError, UnknownNameError
from hagd.pipeline.quotas import ActiveRuns
from hagd.pipeline.request import Request, run_id_of
from hagd.pipeline.state import Outcome, RunState, StageState, Standing


@dataclass(frozen=True)
class RunStore:
    """Reads and writes the state of runs."""

    store: ArtifactStore

    @property
    def active(self) -> ActiveRuns:
        """Give the marks of the runs that go on."""
        return ActiveRuns(self.store)

    def create(self, request: Request, identity: str) -> str:
        """Keep a request; quiet when the same is there already.

        Labels and local fields may differ: then the newer ones replace the older.

        Raises:
            RunConflictError: a request of this id with another `identity` is there.
        """
        run_id = run_id_of(request.principal, request.request_id)
        data = rfc8785.dumps({"identity": identity, "request": request.to_json()})
        key = f"runs/{run_id}/request"
        there = self.store.read(key)
        if there is None:
            self.active.mark(request.principal, run_id)
            there = None if self.store.put_if_absent(key, data) is not None else self.store.read(key)
        if there is not None and there.data != data:
            if _parse(there.data, key)["identity"] != identity:
                raise RunConflictError(
                    f"a run with other settings is there already, by the same request id {request.request_id!r}",
                    "repeat the first command to resume that run, or choose another name or folder",
                )
            self.store.replace(key, data, there.etag)
        self.store.put_if_absent(f"runs/{run_id}/g0000/opened", b"{}")
        return run_id

    def exists(self, run_id: str) -> bool:
        """Say whether a request of this id was accepted."""
        return self.store.read(f"runs/{run_id}/request") is not None

    def list(self) -> list[str]:
        """Give the ids of all runs, sorted."""
        keys = self.store.list("runs/")
        return [key.split("/")[1] for key in keys if key.endswith("/request")]

    def page(self, after: str, limit: int) -> tuple[str, ...]:
        """Give at most `limit` ids of runs that come after `after`, sorted, without reading the others."""
        found: list[str] = []
        while len(found) < limit:
            names = self.store.folders("runs", after, limit)
            # A run that is about to be deleted, or that was never asked for here, has no request.
            found += [name for name in names if self.exists(name)]
            if len(names) < limit:
                break
            after = names[-1]
        return tuple(found[:limit])

    def find(self, prefix: str) -> str:
        """Give the one run id that starts with `prefix`.

        Raises:
            UnknownNameError: there is none, or more than one.
        """
        found = [run_id for run_id in self.list() if run_id.startswith(prefix)]
        if len(found) != 1:
            raise UnknownNameError(
                f"{len(found)} runs have an id that starts with {prefix!r}", "`hagd run list` shows the ids"
            )
        return found[0]

    def request(self, run_id: str) -> Request:
        """Give the request of a run.

        Raises:
            UnknownNameError: there is no such run.
        """
        key = f"runs/{run_id}/request"
        there = self.store.read(key)
        if there is None:
            raise UnknownNameError(f"there is no run {run_id!r}", "`hagd run list` shows the ids")
        return Request.from_json(_parse(there.data, key)["request"])

    def generation(self, run_id: str) -> int:
        """Give how often the run was opened again; 0 for a run that was opened once."""
        return self.standing(run_id).generation

    def standing(self, run_id: str) -> Standing:
        """Say where a run stands, by one listing: a loop asks this of every request, often over a network."""
        keys = set(self.store.list(f"runs/{run_id}/"))
        opened = [int(key.split("/")[2][1:]) for key in keys if key.endswith("/opened")]
        generation = max(opened, default=0)
        folder = f"runs/{run_id}/g{generation:04d}"
        return Standing(
            f"runs/{run_id}/request" in keys, generation, f"{folder}/outcome" in keys, f"{folder}/cancel" in keys
        )

    def reopen(self, run_id: str, after: int) -> int:
        """Open generation `after` + 1, or join whoever opened it first; give its number."""
        self.active.mark(self.request(run_id).principal, run_id)
        self.store.put_if_absent(f"runs/{run_id}/g{after + 1:04d}/opened", b"{}")
        return after + 1

    def start_stage(self, run_id: str, generation: int, index: int, stage: StageState) -> None:
        """Note that a stage has been started."""
        self._write(run_id, generation, f"{index:02d}-{stage.stage_id}.started", stage.to_json())

    def divide_stage(self, run_id: str, generation: int, index: int, stage_id: str, keys: Sequence[str]) -> None:
        """Note the keys of the parts into which a stage was divided."""
        self._write(run_id, generation, f"{index:02d}-{stage_id}.shards", {"keys": list(keys)})

    def shards(self, run_id: str, generation: int, index: int, stage_id: str) -> Sequence[str]:
        """Give the keys of the parts of a stage; empty when it was not divided."""
        value = self._read(run_id, generation, f"{index:02d}-{stage_id}.shards")
        return () if value is None else tuple(value["keys"])

    def finish_stage(self, run_id: str, generation: int, index: int, stage: StageState) -> None:
        """Note what a stage gave; the first note stays."""
        self._write(run_id, generation, f"{index:02d}-{stage.stage_id}.done", stage.to_json())

    def stages(self, run_id: str, generation: int | None = None) -> tuple[StageState, ...]:
        """Give the state of every stage of the plan, in its order."""
        at = self.generation(run_id) if generation is None else generation
        plan = self.request(run_id).plan
        return tuple(self._stage(run_id, at, index, entry.stage_id) for index, entry in enumerate(plan))

    def _stage(self, run_id: str, generation: int, index: int, stage_id: str) -> StageState:
        for suffix in ("done", "started"):
            value = self._read(run_id, generation, f"{index:02d}-{stage_id}.{suffix}")
            if value is not None:
                return StageState.from_json(value)
        return StageState(stage_id, "pending")

    def cancel(self, run_id: str) -> None:
        """Ask that a run be stopped; it stops at the next check.

        Raises:
            UnknownNameError: there is no such run.
        """
        self.request(run_id)
        self._write(run_id, self.generation(run_id), "cancel", {})

    def is_cancelled(self, run_id: str, generation: int) -> bool:
        """Say whether somebody asked to stop."""
        return self._read(run_id, generation, "cancel") is not None

    def finish(self, run_id: str, generation: int, outcome: Outcome, principal: str) -> Outcome:
        """Write how the run of a principal ended, unless somebody was first; give the outcome that stands."""
        is_first = self._write(run_id, generation, "outcome", outcome.to_json())
        self.active.clear(principal, run_id)
        return outcome if is_first else self.outcome(run_id, generation) or outcome

    def outcome(self, run_id: str, generation: int | None = None) -> Outcome | None:
        """Give how the run ended, or None."""
        at = self.generation(run_id) if generation is None else generation
        value = self._read(run_id, at, "outcome")
        return Outcome.from_json(value) if value is not None else None

    def get(self, run_id: str) -> RunState:
        """Give all that is known of a run.

        Raises:
            UnknownNameError: there is no such run.
        """
        request, generation = self.request(run_id), self.generation(run_id)
        # The outcome first: what was at work when it was written ends behind it.
        outcome, stages = self.outcome(run_id, generation), self.stages(run_id, generation)
        if outcome is not None:
            stages = tuple(replace(it, status="stopped") if it.status == "running" else it for it in stages)
        return RunState(run_id, request, generation, stages, outcome, self.is_cancelled(run_id, generation))

    def delete(self, run_id: str) -> None:
        """Forget a run, or go on with that; its artifacts stay until they are collected.

        The request goes first: without it there is no run. The outcome may not, or the run would seem to go on.
        """
        if self.exists(run_id):
            self.active.clear(self.request(run_id).principal, run_id)
            self.store.delete(f"runs/{run_id}/request")
        for key in self.store.list(f"runs/{run_id}/"):
            self.store.delete(key)

    def remnants(self) -> tuple[str, ...]:
        """Give the ids of runs whose deletion was interrupted."""
        # Folders first: a run that is created meanwhile has its request by the second look.
        names = self.store.folders("runs")
        return tuple(sorted({*names} - {*self.list()}))

    def _write(self, run_id: str, generation: int, name: str, value: Mapping[str, Any]) -> bool:
        """Write an object unless one is there; say whether it was written."""
        key = f"runs/{run_id}/g{generation:04d}/{name}"
        return self.store.put_if_absent(key, rfc8785.dumps(dict(value))) is not None

    def _read(self, run_id: str, generation: int, name: str) -> dict[str, Any] | None:
        key = f"runs/{run_id}/g{generation:04d}/{name}"
        there = self.store.read(key)
        return None if there is None else _parse(there.data, key)


def _parse(data: bytes, key: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CorruptArtifactError(f"{key} is not JSON: {error}", "delete the run and issue it again") from error
    if not isinstance(value, dict):
        raise CorruptArtifactError(f"{key} holds no object", "delete the run and issue it again")
    return value
