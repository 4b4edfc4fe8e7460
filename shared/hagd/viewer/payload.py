"""The data of a report: a run as plain JSON, small enough to embed and checked so that the page need not be."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from hagd.errors import InvalidInputError, NonFiniteError
from hagd.graphs.circuit import Circuit, CircuitNode
from hagd.graphs.hierarchy import Hierarchy
from hagd.viewer.summary import badge_of, sentence_of, tone_of
from hagd.viewer.view import RunView

SCHEMA: Final = "hagd.viewer/v1"
MAX_EDGES: Final = 4000
"""Edges beyond the claimed ones are cut here; the report says how many were left out."""
_ROWS: Final = {"token": "token", "head": "attention", "logit": "logit"}


def payload_of(view: RunView) -> dict[str, Any]:
    """Give everything the page shows, as JSON values.

    Raises:
        InvalidInputError: an edge names a node that the circuit lacks.
    """
    circuit = view.circuit
    logits = _logits(circuit, view.n_layers)
    kept = max(MAX_EDGES, circuit.n_edges)
    nodes = [_node(node, view) for node in circuit.nodes]
    roles = list(dict.fromkeys([*view.roles, *(node["role"] for node in [*nodes, *logits])]))
    return {
        "schema": SCHEMA,
        "title": view.title,
        "summary": {"badge": badge_of(view), "tone": tone_of(view), "sentence": sentence_of(view)},
        "roles": roles,
        "n_layers": view.n_layers,
        "nodes": nodes,
        "logits": logits,
        "size": circuit.size,
        "edges": _edges(circuit, logits, kept),
        "n_edges": circuit.n_edges,
        "edges_left_out": max(0, len(circuit.edges) - kept),
        "evaluations": circuit.evaluations,
        "verification": view.verification,
        "hierarchy": None if view.hierarchy is None else _hierarchy(view.hierarchy),
        "cards": _cards(view),
        "provenance": view.provenance,
    }


def embed(payload: Mapping[str, Any]) -> str:
    """Write JSON that is safe inside a script element: ASCII only, and without `<`, `>` or `&`.

    Raises:
        NonFiniteError: a number is NaN or infinite.
    """
    try:
        text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError as error:
        raise NonFiniteError(f"the report holds NaN or infinity: {error}", "the stage that made it diverged") from error
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plain(value: Any) -> Any:
    """Turn what JSON does not know (mappings, tuples, NumPy scalars) into what it does."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise InvalidInputError(f"a {type(value).__name__} cannot be shown in a report", "give plain JSON values")


def _node(node: CircuitNode, view: RunView) -> dict[str, Any]:
    leaves = [str(leaf) for leaf in node.leaves] if node.kind == "supernode" else []
    first = node.leaves[0] if node.leaves else None
    kind = first.kind if first and node.kind == "supernode" else node.kind
    return {
        "id": node.id,
        "kind": node.kind,
        "row": _ROWS.get(kind, "mlp"),
        "layer": node.layer,
        "role": node.role,
        "index": first.index if first else 0,
        "leaves": leaves,
        "n_leaves": node.n_leaves,
        "unexplained": node.unexplained,
        "score": _rounded(node.score),
        "module": _module(node, view.modules),
    }


def _module(node: CircuitNode, modules: Mapping[str, int]) -> int | None:
    """Give the node's module; a supernode has the one that most of its leaves have."""
    if node.id in modules:
        return modules[node.id]
    votes = Counter(modules[str(leaf)] for leaf in node.leaves if str(leaf) in modules)
    return votes.most_common(1)[0][0] if votes else None


def _logits(circuit: Circuit, n_layers: int) -> list[dict[str, Any]]:
    """Give the metric's nodes, which are ends of edges but no members of the circuit."""
    known = {node.id for node in circuit.nodes}
    names = [name for edge in circuit.edges for name in (edge.source, edge.target)]
    found = dict.fromkeys(name for name in names if name.startswith("logit@") and name not in known)
    return [
        {
            "id": name,
            "kind": "logit",
            "row": "logit",
            "layer": n_layers,
            "role": name.split("@", 1)[1],
            "index": 0,
            "score": None,
        }
        for name in found
    ]


def _edges(circuit: Circuit, logits: list[dict[str, Any]], kept: int) -> list[tuple[int, int, float]]:
    names = [node.id for node in circuit.nodes] + [logit["id"] for logit in logits]
    index = {name: i for i, name in enumerate(names)}
    strongest = sorted(circuit.edges[: circuit.n_edges], key=lambda edge: -abs(edge.weight))
    try:
        return [
            (index[edge.source], index[edge.target], _rounded(edge.weight))
            for edge in [*strongest, *circuit.edges[circuit.n_edges : kept]]
        ]
    except KeyError as error:
        raise InvalidInputError(
            f"an edge names {error.args[0]!r}, which is no node of the circuit", "the circuit document is damaged"
        ) from error


def _cards(view: RunView) -> dict[str, Any]:
    """Keep the cards of nodes and leaves that the report can show."""
    shown = {node.id for node in view.circuit.nodes}
    shown |= {str(leaf) for node in view.circuit.nodes if node.kind == "supernode" for leaf in node.leaves}
    return {name: dict(card) for name, card in view.cards.items() if name in shown}


def _hierarchy(hierarchy: Hierarchy) -> dict[str, Any]:
    return {
        "branching": hierarchy.branching,
        "levels": [dataclasses.asdict(level) for level in hierarchy.levels],
        "module_report": dataclasses.asdict(hierarchy.module_report),
    }


def _rounded(value: float) -> float:
    """Keep six significant digits: more than a reader sees, and half the bytes.

    Raises:
        NonFiniteError: the value is NaN or infinite.
    """
    if not math.isfinite(value):
        raise NonFiniteError("a score or an edge weight is NaN or infinite", "the stage that made it diverged")
    return float(f"{value:.6g}")
