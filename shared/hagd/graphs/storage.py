"""Graphs, hierarchies and circuits as artifact documents.

Nodes are stored as four numbers each, not as text: a graph of half a million nodes loads in seconds. Timings
are left out (they read back as 0), because an artifact is a function of its inputs and must not differ between runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode
from hagd.graphs.hierarchy import Hierarchy, LevelReport
from hagd.graphs.nodes import NODE_KINDS, Node

GRAPH_FORMAT = "hagd.graph/1"
HIERARCHY_FORMAT = "hagd.hierarchy/1"
CIRCUIT_FORMAT = "hagd.circuit/1"


def graph_to_document(graph: AttributionGraph) -> Document:
    """Give the artifact of an attribution graph."""
    content = {
        "format": GRAPH_FORMAT,
        "roles": list(graph.roles),
        "n_layers": graph.n_layers,
        "n_prompts": graph.n_prompts,
        "statistics": sorted(graph.statistics),
    }
    tensors = {
        "nodes": _nodes_to_array(graph.nodes, graph.roles),
        "source": graph.source.astype(np.int32),
        "target": graph.target.astype(np.int32),
        "weight": graph.weight.astype(np.float32),
        "weight_abs": graph.weight_abs.astype(np.float32),
    }
    tensors |= {f"statistics/{name}": value.astype(np.float64) for name, value in graph.statistics.items()}
    return Document(content, tensors)


def graph_from_document(document: Document) -> AttributionGraph:
    """Read what `graph_to_document` wrote.

    Raises:
        CorruptArtifactError: the document is no graph, is of another version, or points outside itself.
    """
    content, tensors = _open(document, GRAPH_FORMAT), document.tensors
    try:
        roles = tuple(content["roles"])
        nodes = _nodes_from_array(tensors["nodes"], roles)
        graph = AttributionGraph(
            nodes=nodes,
            roles=roles,
            n_layers=int(content["n_layers"]),
            source=tensors["source"].astype(np.int64),
            target=tensors["target"].astype(np.int64),
            weight=tensors["weight"].astype(np.float64),
            weight_abs=tensors["weight_abs"].astype(np.float64),
            statistics={name: tensors[f"statistics/{name}"] for name in content["statistics"]},
            n_prompts=int(content["n_prompts"]),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _corrupt(f"incomplete attribution graph: {error!r}") from error
    if len(graph.source) and not (
        (graph.source.min() >= 0) and (graph.source < graph.target).all() and graph.target.max() < graph.n_nodes
    ):
        raise _corrupt("an edge of the graph does not run forward between its nodes")
    return graph


def hierarchy_to_document(hierarchy: Hierarchy) -> Document:
    """Give the artifact of a hierarchy."""
    content = {
        "format": HIERARCHY_FORMAT,
        "branching": hierarchy.branching,
        "levels": [_report_to_json(report) for report in hierarchy.levels],
        "module_report": _report_to_json(hierarchy.module_report),
    }
    tensors = {f"parents/{i}": parent.astype(np.int32) for i, parent in enumerate(hierarchy.parents)}
    return Document(content, tensors | {"module_labels": hierarchy.module_labels.astype(np.int32)})


def hierarchy_from_document(document: Document) -> Hierarchy:
    """Read what `hierarchy_to_document` wrote.

    Raises:
        CorruptArtifactError: the document is no hierarchy, is of another version, or does not fit together.
    """
    content, tensors = _open(document, HIERARCHY_FORMAT), document.tensors
    try:
        levels = tuple(_report_from_json(report) for report in content["levels"])
        hierarchy = Hierarchy(
            parents=tuple(tensors[f"parents/{i}"].astype(np.int64) for i in range(len(levels) - 1)),
            levels=levels,
            module_labels=tensors["module_labels"].astype(np.int64),
            module_report=_report_from_json(content["module_report"]),
            branching=int(content["branching"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(f"incomplete hierarchy: {error!r}") from error
    sizes = [len(hierarchy.module_labels), *(report.n_groups for report in hierarchy.levels[1:])]
    for parent, below, above in zip(hierarchy.parents, sizes, sizes[1:], strict=False):
        if len(parent) != below or not np.array_equal(np.unique(parent), np.arange(above)):
            raise _corrupt("a level of the hierarchy does not fit the one below")
    return hierarchy


def circuit_to_document(circuit: Circuit) -> Document:
    """Give the artifact of a circuit: plain JSON."""
    return Document(
        {
            "format": CIRCUIT_FORMAT,
            "nodes": [
                {**asdict(node), "leaves": [_node_to_json(leaf) for leaf in node.leaves]} for node in circuit.nodes
            ],
            "size": circuit.size,
            "edges": [asdict(edge) for edge in circuit.edges],
            "n_edges": circuit.n_edges,
            "refined": {str(layer): list(roles) for layer, roles in circuit.refined.items()},
            "evaluations": circuit.evaluations,
            "trace": [dict(step) for step in circuit.trace],
        }
    )


def circuit_from_document(document: Document) -> Circuit:
    """Read what `circuit_to_document` wrote.

    Raises:
        CorruptArtifactError: the document is no circuit or is of another version.
    """
    content = _open(document, CIRCUIT_FORMAT)
    try:
        entries: list[dict[str, Any]] = content["nodes"]
        leaves = [tuple(map(_node_from_json, entry["leaves"])) for entry in entries]
        plain: list[dict[str, Any]] = [{**entry, "leaves": part} for entry, part in zip(entries, leaves, strict=True)]
        return Circuit(
            nodes=tuple(CircuitNode(**entry) for entry in plain),
            size=int(content["size"]),
            edges=tuple(CircuitEdge(**entry) for entry in content["edges"]),
            n_edges=int(content["n_edges"]),
            refined={int(layer): tuple(roles) for layer, roles in content["refined"].items()},
            evaluations=int(content["evaluations"]),
            trace=tuple(dict(step) for step in content["trace"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(f"incomplete circuit: {error!r}") from error


def _nodes_to_array(nodes: Iterable[Node], roles: Sequence[str]) -> Int[np.ndarray, "node 4"]:
    kinds = {kind: number for number, kind in enumerate(NODE_KINDS)}
    places = {role: number for number, role in enumerate(roles)}
    rows = [(kinds[node.kind], node.layer, places[node.role], node.index) for node in nodes]
    return np.array(rows, dtype=np.int32).reshape(-1, 4)


def _nodes_from_array(rows: Int[np.ndarray, "node 4"], roles: Sequence[str]) -> tuple[Node, ...]:
    return tuple(Node(NODE_KINDS[kind], layer, roles[int(role)], index) for kind, layer, role, index in rows.tolist())


def _node_to_json(node: Node) -> list[Any]:
    return [node.kind, node.layer, node.role, node.index]


def _node_from_json(entry: Any) -> Node:
    kind, layer, role, index = entry
    if kind not in NODE_KINDS:
        raise ValueError(f"{kind!r} is not a kind of node")
    return Node(kind, int(layer), str(role), int(index))


def _report_to_json(report: LevelReport) -> dict[str, Any]:
    return asdict(replace(report, seconds=0.0))


def _report_from_json(entry: Mapping[str, Any]) -> LevelReport:
    values: dict[str, Any] = {name: float(value) for name, value in entry.items()}
    return LevelReport(**(values | {"n_groups": int(entry["n_groups"]), "largest": int(entry["largest"])}))


def _open(document: Document, expected: str) -> Mapping[str, Any]:
    found = document.content.get("format")
    if found != expected:
        raise _corrupt(f"expected an artifact of format {expected!r}, found {found!r}")
    return document.content


def _corrupt(message: str) -> CorruptArtifactError:
    return CorruptArtifactError(message, "recompute the stage that made it")
