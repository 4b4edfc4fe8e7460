"""An extraction as a value: the circuit, its evidence, its page. What `hagd.extract` gives.

Artifacts are read from the run folder when they are first asked for, and never without a check of their digest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.filesystem import storage_error
from hagd.extraction import roles
from hagd.extraction.opened import OpenRun
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit
from hagd.graphs.hierarchy import Hierarchy
from hagd.graphs.storage import circuit_from_document, graph_from_document, hierarchy_from_document
from hagd.viewer import RunView, render_html, repr_html
from hagd.viewer.documents import view_from_documents

_DRAWN: Final = (roles.CIRCUIT, roles.GRAPH, roles.HIERARCHY, roles.VERIFICATION)
_MODEL: Final = (roles.MODEL, roles.TASK, roles.DICTIONARIES)


@dataclass(frozen=True)
class Extraction:
    """The result of a run. Every property raises RunError when the run has not come so far."""

    run: OpenRun

    @staticmethod
    def open(folder: str | Path, run_id: str | None = None) -> "Extraction":
        """Open a run folder.

        Raises:
            NotARunError, UnknownNameError, InvalidInputError: as `OpenRun.open`.
        """
        return Extraction(OpenRun.open(Path(folder), run_id))

    @property
    def folder(self) -> Path:
        """Give the run folder."""
        return self.run.root

    @cached_property
    def circuit(self) -> Circuit:
        """Give the nested family of circuits; `circuit.nodes[:circuit.size]` is the chosen one."""
        return circuit_from_document(self.run.document(roles.CIRCUIT))

    @cached_property
    def graph(self) -> AttributionGraph:
        """Give the attribution graph."""
        return graph_from_document(self.run.document(roles.GRAPH))

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """Give the hierarchy over the nodes of the graph."""
        return hierarchy_from_document(self.run.document(roles.HIERARCHY))

    @property
    def evidence(self) -> Mapping[str, Any]:
        """Give the `data` of `hagd verify --json`."""
        evidence = dict(self.run.data(roles.VERIFICATION))
        # The stage is a function of content and knows no command line; the run knows the one that made it.
        return evidence | {"command": self.run.state.request.labels.get("command", evidence.get("command", ""))}

    @property
    def verdict(self) -> str:
        """Give `verified`, `refuted` or `no claim`."""
        return str(self.evidence.get("verdict", "no claim"))

    def view(self, *, cards: bool = True) -> RunView:
        """Give what the viewer draws. Feature cards are those that verification left; a run that has not come so far
        makes some by running the model, which brings torch.

        Raises:
            RunError: the run has made no circuit yet.
        """
        there = cards and self.run.has(roles.CARDS)
        wanted = _DRAWN + (_MODEL if cards and not there else ())
        documents = {role: self.run.document(role) for role in wanted if self.run.has(role)}
        view = view_from_documents(documents, title=self._title(), provenance=self._provenance())
        evidence = self.evidence if view.verification else {}
        made = {**view.cards, **self.run.data(roles.CARDS)} if there else view.cards
        return replace(view, verification=evidence, cards=made)

    def to_html(self, path: str | Path, *, cards: bool = True) -> Path:
        """Write the page of this run, with feature cards if wanted: one file that needs no network. Gives its path.

        Raises:
            StoreFullError, UnavailableError: it cannot be written.
        """
        text, path = render_html(self.view(cards=cards)), Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise storage_error(error, path) from error
        return path

    def _repr_html_(self) -> str:
        return repr_html(self.view(cards=False))

    def __repr__(self) -> str:
        ended = self.run.state.outcome
        return f"<Extraction {self.folder}: {ended.status if ended else 'unfinished'}>"

    def _title(self) -> str:
        subject = self.run.state.request.plan[0].config
        task, model = subject.get("task", {}), subject.get("model", {})
        name = Path(str(task.get("path"))).stem if task.get("name") == "jsonl" else str(task.get("name", "circuit"))
        numbered = f"{name} {task['modulus']}" if "modulus" in task else name
        return f"{numbered}, {Path(str(model['path'])).name}" if "path" in model else numbered

    def _provenance(self) -> dict[str, Any]:
        state = self.run.state
        return {
            "hagd": version("hagd"),
            "command": state.request.labels.get("command", ""),
            "run": state.run_id,
            "stages": {stage.stage_id: stage.task_key for stage in state.stages},
            "config": {entry.stage_id: dict(entry.config) for entry in state.request.plan},
        }
