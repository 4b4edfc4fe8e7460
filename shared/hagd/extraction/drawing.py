"""Graphs and circuits as networks that other tools read: JSON, GraphML, DOT, CSV."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit

_TYPES: Final = {bool: "boolean", int: "long", float: "double", str: "string"}


@dataclass(frozen=True)
class Network:
    """Nodes and edges with plain attributes; every node has `id`, every edge `source` and `target`."""

    nodes: tuple[Mapping[str, Any], ...]
    edges: tuple[Mapping[str, Any], ...]


def network_of_graph(graph: AttributionGraph) -> Network:
    """Give an attribution graph with its node statistics."""
    names = [str(node) for node in graph.nodes]
    nodes = tuple(
        {"id": names[i], "kind": node.kind, "layer": node.layer, "role": node.role}
        | {name: float(values[i]) for name, values in graph.statistics.items()}
        for i, node in enumerate(graph.nodes)
    )
    edges = tuple(
        {"source": names[s], "target": names[t], "weight": float(w), "weight_abs": float(a)}
        for s, t, w, a in zip(
            graph.source.tolist(),
            graph.target.tolist(),
            graph.weight.tolist(),
            graph.weight_abs.tolist(),
            strict=True,
        )
    )
    return Network(nodes, edges)


def network_of_circuit(circuit: Circuit) -> Network:
    """Give the chosen circuit with the edges that it claims, and the logits that these end in."""
    nodes: dict[str, Mapping[str, Any]] = {
        node.id: {
            "id": node.id,
            "kind": node.kind,
            "layer": node.layer,
            "role": node.role,
            "leaves": node.n_leaves,
            "unexplained": node.unexplained,
            "score": float(node.score),
        }
        for node in circuit.nodes[: circuit.size]
    }
    edges = circuit.edges[: circuit.n_edges]
    for edge in edges:
        for end in (edge.source, edge.target):
            kind, _, role = end.partition("@")
            nodes.setdefault(end, {"id": end, "kind": kind.partition(".")[0], "role": role})
    shown = ({"source": edge.source, "target": edge.target, "weight": float(edge.weight)} for edge in edges)
    return Network(tuple(nodes.values()), tuple(shown))


def draw_network(network: Network, form: str) -> str:
    """Give a network as `json`, `graphml`, `dot` or `csv` (its edges)."""
    return _WRITERS[form](network)


def _as_json(network: Network) -> str:
    content = {"nodes": [dict(node) for node in network.nodes], "edges": [dict(edge) for edge in network.edges]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _as_csv(network: Network) -> str:
    names = list(dict.fromkeys(["source", "target", *(name for edge in network.edges for name in edge)]))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(network.edges)
    return out.getvalue()


def _as_dot(network: Network) -> str:
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [shape=box];"]
    lines += [f"  {_quoted(str(node['id']))} [{_dot_attributes(node, {'id'})}];" for node in network.nodes]
    lines += [
        f"  {_quoted(str(edge['source']))} -> {_quoted(str(edge['target']))} "
        f"[{_dot_attributes(edge, {'source', 'target'})}];"
        for edge in network.edges
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _dot_attributes(item: Mapping[str, Any], left_out: set[str]) -> str:
    return ", ".join(f"{name}={_quoted(str(value))}" for name, value in item.items() if name not in left_out)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _as_graphml(network: Network) -> str:
    root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
    keys = _declare_keys(root, "node", network.nodes, {"id"})
    keys |= _declare_keys(root, "edge", network.edges, {"source", "target"})
    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    for node in network.nodes:
        _add_data(ElementTree.SubElement(graph, "node", id=str(node["id"])), "node", node, keys)
    for edge in network.edges:
        ends = {"source": str(edge["source"]), "target": str(edge["target"])}
        _add_data(ElementTree.SubElement(graph, "edge", ends), "edge", edge, keys)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _declare_keys(
    root: ElementTree.Element, owner: str, items: tuple[Mapping[str, Any], ...], left_out: set[str]
) -> dict[tuple[str, str], str]:
    keys: dict[tuple[str, str], str] = {}
    for item in items:
        for name, value in item.items():
            if name in left_out or (owner, name) in keys:
                continue
            keys[owner, name] = f"{owner}_{name}"
            declared = {"id": keys[owner, name], "for": owner, "attr.name": name, "attr.type": _TYPES[type(value)]}
            ElementTree.SubElement(root, "key", declared)
    return keys


def _add_data(
    element: ElementTree.Element, owner: str, item: Mapping[str, Any], keys: Mapping[tuple[str, str], str]
) -> None:
    for name, value in item.items():
        if (owner, name) in keys:
            data = ElementTree.SubElement(element, "data", key=keys[owner, name])
            data.text = str(value).lower() if isinstance(value, bool) else str(value)


_WRITERS: Final[dict[str, Callable[[Network], str]]] = {
    "json": _as_json,
    "csv": _as_csv,
    "dot": _as_dot,
    "graphml": _as_graphml,
}
