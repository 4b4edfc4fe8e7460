"""A run folder opened for reading: which runs it holds, and the documents they made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef
from hagd.artifacts.store import get_document
from hagd.errors import InvalidInputError, NotARunError, RunError
from hagd.extraction.plan import EXTRACT
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import RunState


def list_runs(root: Path) -> list[RunState]:
    """Give all runs of a folder in the order of their ids.

    Raises:
        NotARunError: the folder holds none.
    """
    folder = RunFolder.open(root)
    runs = folder.open_runs(create=False)
    active = folder.is_active()
    return [_as_seen(runs.get(run_id), active) for run_id in runs.list()]


def _as_seen(state: RunState, active: bool) -> RunState:
    """Call a started stage running only while a process works in the folder."""
    if active or state.outcome is not None:
        return state
    stages = [replace(stage, status="pending") if stage.status == "running" else stage for stage in state.stages]
    return replace(state, stages=tuple(stages))


@dataclass(frozen=True)
class OpenRun:
    """One run of a folder. Reads what it is asked for, and nothing before."""

    folder: RunFolder
    state: RunState

    @staticmethod
    def open(root: Path, run_id: str | None = None) -> "OpenRun":
        """Open the run of a folder; of several, the one whose id starts with `run_id`, else the whole extraction.

        Raises:
            NotARunError: the folder holds no run.
            UnknownNameError: `run_id` fits no run, or several.
            InvalidInputError: there are several and none was chosen.
        """
        folder = RunFolder.open(root)
        runs = folder.open_runs(create=False)
        state = runs.get(runs.find(run_id) if run_id else _only(runs, root))
        return OpenRun(folder, _as_seen(state, folder.is_active()))

    @property
    def root(self) -> Path:
        return self.folder.root

    @property
    def roles(self) -> Mapping[str, ArtifactRef]:
        """Every artifact of the run by role."""
        return self.state.outputs

    @cached_property
    def _documents(self) -> dict[str, Document]:
        return {}

    def has(self, role: str) -> bool:
        """Say whether the run has come so far."""
        return role in self.roles

    def document(self, role: str) -> Document:
        """Give an artifact of the run, checked against its digest.

        Raises:
            RunError: the run has not made it, or failed before.
            ArtifactNotFoundError, CorruptArtifactError: it is lost or damaged.
        """
        if role not in self._documents:
            ref = self.roles.get(role)
            if ref is None:
                raise self._missing(role)
            self._documents[role] = get_document(self.folder.open_store(create=False), ref)
        return self._documents[role]

    def data(self, role: str) -> Mapping[str, Any]:
        """Give the `data` of a JSON artifact that follows the CLI's form, or all of its content."""
        content = self.document(role).content
        data = content.get("data")
        return data if isinstance(data, Mapping) else content

    def _missing(self, role: str) -> RunError:
        error = self.state.error
        if error is not None:
            return RunError(f"the run failed before it made its {role}: {error.message}", error.hint)
        if self.state.outcome is not None:
            made = ", ".join(sorted(self.roles)) or "nothing"
            return RunError(f"the run ended without a {role}: it has {made}", "open a run whose stages make one")
        return RunError(
            f"the run has no {role} yet",
            f"`hagd run resume {self.root}` goes on; `hagd run status` shows how far it is",
        )


def _only(runs: RunStore, root: Path) -> str:
    ids = runs.list()
    if not ids:
        raise NotARunError(f"{root} holds no run yet", "submit one, or give the folder that `--out` named")
    if len(ids) == 1:
        return ids[0]
    whole = [run_id for run_id in ids if runs.request(run_id).request_id == EXTRACT]
    if len(whole) != 1:
        shown = ", ".join(run_id[:12] for run_id in ids[:5])
        raise InvalidInputError(f"{root} holds {len(ids)} runs ({shown}, ...)", "name one with --run ID")
    return whole[0]
