"""Views from artifacts: what a run has made is shown, and what is missing is left out or named."""

from dataclasses import replace

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.errors import RunError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.nodes import Node
from hagd.graphs.storage import circuit_to_document, graph_to_document
from hagd.viewer import render_html
from hagd.viewer.documents import view_from_documents
from viewer.example_runs import modadd_view


@pytest.fixture
def documents() -> dict[str, Document]:
    view = modadd_view()
    nodes = (Node("token", -1, "a"), Node("feature", 0, "eq", 7), Node("logit", 1, "eq"))
    graph = AttributionGraph(
        nodes=nodes,
        roles=tuple(view.roles),
        n_layers=1,
        source=np.array([0, 1]),
        target=np.array([1, 2]),
        weight=np.array([0.5, -0.25]),
        weight_abs=np.array([0.5, 0.25]),
        statistics={"frequency": np.array([1.0, 0.125, 1.0])},
        n_prompts=8,
    )
    return {"circuit": circuit_to_document(view.circuit), "graph": graph_to_document(graph)}


def test_a_run_that_has_only_a_circuit_and_a_graph_can_be_seen(documents: dict[str, Document]) -> None:
    view = view_from_documents(documents, title="half a run")
    assert view.circuit == modadd_view().circuit
    assert view.cards == {"token@a": {"frequency": 1.0}, "feature.0.7@eq": {"frequency": 0.125}}
    assert "half a run" in render_html(view)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_verification_may_come_bare_or_as_the_command_line_gives_it(
    documents: dict[str, Document], wrapped: bool
) -> None:
    data = {"verdict": "refuted"}
    content = {"schema": "hagd.cli/v1", "kind": "verification", "data": data} if wrapped else data
    view = view_from_documents({**documents, "verification": Document(content)})
    assert view.verification == data


def test_a_run_without_a_circuit_is_refused_with_what_is_missing(documents: dict[str, Document]) -> None:
    with pytest.raises(RunError, match="no circuit"):
        view_from_documents({"graph": documents["graph"]})
    with pytest.raises(RunError, match="no graph"):
        view_from_documents({"circuit": documents["circuit"]})


def test_equal_documents_give_equal_pages(documents: dict[str, Document]) -> None:
    decoded = {role: Document.decode(document.encode()) for role, document in documents.items()}
    assert render_html(view_from_documents(decoded)) == render_html(view_from_documents(replace_all(documents)))


def replace_all(documents: dict[str, Document]) -> dict[str, Document]:
    return {role: replace(document) for role, document in documents.items()}
