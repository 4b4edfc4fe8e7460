"""A view from the artifacts of a run, by their roles: `circuit` and `graph` are needed, the rest is shown if there."""

from collections.abc import Mapping
from typing import Any

from hagd.artifacts.document import Document
from hagd.errors import RunError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit
from hagd.graphs.storage import circuit_from_document, graph_from_document, hierarchy_from_document
from hagd.viewer.view import RunView


def view_from_documents(
    documents: Mapping[str, Document], *, title: str = "Circuit", provenance: Mapping[str, Any] | None = None
) -> RunView:
    """Give the view of a run. Cards with examples need `model`, `task` and `dictionaries`, and run the model.

    Raises:
        RunError: the run has made no circuit or graph.
        CorruptArtifactError: a document is not what its role says.
    """
    missing = [role for role in ("circuit", "graph") if role not in documents]
    if missing:
        raise RunError(
            f"the run has made no {' and no '.join(missing)}",
            "`hagd run status` shows whether it is still at work, and what its stages make",
        )
    circuit, graph = circuit_from_document(documents["circuit"]), graph_from_document(documents["graph"])
    hierarchy = hierarchy_from_document(documents["hierarchy"]) if "hierarchy" in documents else None
    names = map(str, graph.nodes)
    return RunView(
        title=title,
        circuit=circuit,
        roles=graph.roles,
        n_layers=graph.n_layers,
        verification=_verification(documents),
        hierarchy=hierarchy,
        cards=cards_from_documents(documents, circuit, graph),
        modules={} if hierarchy is None else dict(zip(names, hierarchy.module_labels.tolist(), strict=True)),
        provenance=provenance or {},
    )


def cards_from_documents(
    documents: Mapping[str, Document], circuit: Circuit, graph: AttributionGraph
) -> dict[str, dict[str, Any]]:
    """Give the cards of all features of the nested family; without a model, only how often each is active.

    Raises:
        CorruptArtifactError: a document is not what its role says.
    """
    leaves = {leaf for node in circuit.nodes for leaf in node.leaves}
    frequency = graph.statistics.get("frequency")
    cards: dict[str, dict[str, Any]] = {}
    if frequency is not None:
        shares = zip(graph.nodes, frequency.tolist(), strict=True)
        cards = {str(node): {"frequency": share} for node, share in shares if node in leaves}
    features = sorted(leaf for leaf in leaves if leaf.kind == "feature")
    if features and {"model", "task", "dictionaries"} <= set(documents):
        # Imported here because they bring torch, which a report without cards does not need.
        from hagd.dictionaries.storage import dictionaries_from_document  # noqa: PLC0415
        from hagd.interventions.activations import Subject  # noqa: PLC0415
        from hagd.models.storage import model_from_document  # noqa: PLC0415
        from hagd.tasks.storage import task_from_document  # noqa: PLC0415
        from hagd.viewer.cards import feature_cards  # noqa: PLC0415

        model = model_from_document(documents["model"])
        subject = Subject(model, dictionaries_from_document(documents["dictionaries"]))
        cards |= feature_cards(subject, task_from_document(documents["task"]), features)
    return cards


def _verification(documents: Mapping[str, Document]) -> Mapping[str, Any]:
    """Give the evidence, whether the artifact holds it bare or in the form of the command line."""
    if "verification" not in documents:
        return {}
    content = documents["verification"].content
    return content["data"] if isinstance(content.get("data"), Mapping) else content
