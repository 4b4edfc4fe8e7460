"""The JSON of a graph that Neuronpedia and the page of circuit-tracer show: written, and read back.

What is written differs in one point: errors get ids of their own. circuit-tracer calls the error of layer 3 at position
7 `0_3_7`, which is also feature 3 of layer 0 there, and readers that go by ids then join the two.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import GraphTarget, LocalGraph
from hagd.graphs.local_influence import Pruned

SCHEMA_VERSION: Final = 1
_FEATURE, _ERROR, _TOKEN, _LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
MOST_NODES: Final = 50_000
"""Nodes of a file that is read: its edges become a matrix."""


@dataclass(frozen=True)
class Labels:
    """What a file says of itself."""

    slug: str
    """Its name, of letters, digits and hyphens."""
    scan: str
    """Which model and dictionaries the features are of; Neuronpedia looks their descriptions up by it."""
    node_threshold: float | None = None


def to_neuronpedia(graph: LocalGraph, pruned: Pruned, labels: Labels) -> dict[str, Any]:
    """Give the nodes and edges that were kept.

    Raises:
        InvalidInputError: heads are nodes, for which the format has no kind.
    """
    if graph.n_head_nodes:
        raise InvalidInputError("this format knows no heads as nodes", "build the graph without --heads to export it")
    names = [_node_id(graph, number) for number in range(graph.n_nodes)]
    rows, columns = pruned.edges.nonzero()
    targets = graph.rows_of_nodes()[rows]
    links = [
        {"source": names[source], "target": names[target], "weight": weight}
        for source, target, weight in zip(
            columns.tolist(), targets.tolist(), graph.rows[rows, columns].astype(float).tolist(), strict=True
        )
        if pruned.nodes[source] and pruned.nodes[target]
    ]
    return {
        "metadata": {
            "slug": labels.slug,
            "scan": labels.scan,
            "transcoder_list": [],
            "prompt_tokens": list(graph.token_texts) or [str(token) for token in graph.tokens.tolist()],
            "prompt": graph.prompt,
            "node_threshold": labels.node_threshold,
            "schema_version": SCHEMA_VERSION,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(_nodes(graph, pruned, names)),
        "links": links,
    }


def _node_id(graph: LocalGraph, number: int) -> str:
    if number < graph.n_features:
        layer, pos, name = graph.features[number].tolist()
        return f"{layer}_{name}_{pos}"
    number -= graph.n_features
    if number < graph.n_errors:
        return f"{number // graph.n_pos}_error_{number % graph.n_pos}"
    number -= graph.n_errors
    if number < graph.n_pos:
        return f"E_{graph.tokens[number]}_{number}"
    target = graph.targets[number - graph.n_pos]
    name = number - graph.n_pos if target.token is None else target.token
    return f"{graph.n_layers + 1}_{name}_{graph.n_pos - 1}"


def _nodes(graph: LocalGraph, pruned: Pruned, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    best = max(range(len(graph.targets)), key=lambda number: graph.targets[number].weight)
    for number in pruned.nodes.nonzero()[0].tolist():
        node: dict[str, Any] = {"node_id": names[number], "jsNodeId": names[number], "clerp": "", "run_idx": 0}
        node |= {"token_prob": 0.0, "is_target_logit": False, "reverse_ctx_idx": 0, "activation": None}
        node["influence"] = float(pruned.cumulative[number])
        at = number
        if at < graph.n_features:
            layer, pos, name = graph.features[at].tolist()
            # Neuronpedia's number of a feature: layer and id paired to one.
            paired = (layer + name) * (layer + name + 1) // 2 + name
            yield node | {
                "feature": paired,
                "layer": str(layer),
                "ctx_idx": pos,
                "feature_type": _FEATURE,
                "jsNodeId": f"{layer}_{name}-0",
                "activation": float(graph.activations[at]),
            }
            continue
        at -= graph.n_features
        if at < graph.n_errors:
            layer, pos = divmod(at, graph.n_pos)
            yield node | {"feature": -1, "layer": str(layer), "ctx_idx": pos, "feature_type": _ERROR}
            continue
        at -= graph.n_errors
        if at < graph.n_pos:
            yield node | {"feature": at, "layer": "E", "ctx_idx": at, "feature_type": _TOKEN}
            continue
        target = graph.targets[at - graph.n_pos]
        yield node | {
            "feature": at - graph.n_pos if target.token is None else target.token,
            "layer": str(graph.n_layers + 1),
            "ctx_idx": graph.n_pos - 1,
            "feature_type": _LOGIT,
            "token_prob": target.weight,
            "is_target_logit": at - graph.n_pos == best,
            "influence": None,
            "clerp": f'Output "{target.name}" (p={target.weight:.3f})',
        }


def from_neuronpedia(content: Mapping[str, Any]) -> LocalGraph:
    """Read a graph that was written so, by anybody; what was pruned from it is not there any more.

    Scalars are the sums of the edges that are there.

    Raises:
        InvalidInputError: a part is missing, of another kind, too large, or contradicts another.
    """
    try:
        return _read(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidInputError(
            f"this is no attribution graph: {type(error).__name__}: {error}", "give the JSON that Neuronpedia shows"
        ) from error


def _read(content: Mapping[str, Any]) -> LocalGraph:
    texts = tuple(str(text) for text in content["metadata"]["prompt_tokens"])
    nodes, links = _list(content, "nodes"), _list(content, "links")
    if not 0 < len(nodes) <= MOST_NODES:
        raise ValueError(f"it has {len(nodes)} nodes, and up to {MOST_NODES} are read")
    kinds: dict[str, list[tuple[tuple[int, ...], Mapping[str, Any]]]] = {
        kind: [] for kind in (_FEATURE, _ERROR, _TOKEN, _LOGIT)
    }
    for node in nodes:
        kind = str(node["feature_type"])
        kinds[kind].append((_place(node, kind), node))
    features = sorted(kinds[_FEATURE], key=lambda pair: pair[0])
    n_pos, tokens = len(texts), np.zeros(len(texts), dtype=np.int64)
    n_layers = 1 + max((place[0] for kind in (_FEATURE, _ERROR) for place, _ in kinds[kind]), default=-1)
    logits = [node for _, node in kinds[_LOGIT]]
    if logits:
        n_layers = max(n_layers, int(logits[0]["layer"]) - 1)
    if not (logits and n_pos and 0 < n_layers <= MOST_NODES):
        raise ValueError("it has no tokens, layers or logits")
    n_features, n_errors = len(features), n_layers * n_pos
    if (n_features + len(logits)) * (n_features + n_errors + n_pos) > MOST_NODES**2 // 4:
        raise ValueError("it has too many nodes for one matrix")
    column: dict[str, int] = {}
    row: dict[str, int] = {}
    for number, (place, node) in enumerate(features):
        _check_position(place[1], n_pos)
        _name(column, node, number)
        _name(row, node, number)
    for place, node in kinds[_ERROR]:
        _check_position(place[1], n_pos)
        _check_position(place[0], n_layers)
        _name(column, node, n_features + place[0] * n_pos + place[1])
    for place, node in kinds[_TOKEN]:
        _check_position(place[0], n_pos)
        tokens[place[0]] = place[1]
        _name(column, node, n_features + n_errors + place[0])
    for number, node in enumerate(logits):
        _name(row, node, n_features + number)
    rows = np.zeros((n_features + len(logits), n_features + n_errors + n_pos), dtype=np.float32)
    for link in links:
        weight = float(link["weight"])
        if not math.isfinite(weight):
            raise ValueError("an edge is NaN or infinite")
        rows[row[link["target"]], column[link["source"]]] = weight
    targets = tuple(
        GraphTarget(
            str(node.get("clerp") or node["feature"]), float(node.get("token_prob") or 0.0), int(node["feature"])
        )
        for node in logits
    )
    check_weights([target.weight for target in targets])
    values = np.array([float(node.get("activation") or 0.0) for _, node in features], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("an activation is NaN or infinite")
    return with_sums(
        prompt=str(content["metadata"].get("prompt", "")),
        tokens=tokens,
        token_texts=texts,
        n_layers=n_layers,
        features=np.array([place for place, _ in features], dtype=np.int64).reshape(-1, 3),
        activations=values,
        targets=targets,
        rows=rows,
    )


def check_weights(weights: Sequence[float]) -> None:
    """Check that targets weigh something.

    Raises:
        ValueError: a weight is negative, NaN or infinite, or all of them are zero.
    """
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError("its logits have no probabilities")


def with_sums(*, rows: Float[np.ndarray, "row column"], **parts: Any) -> LocalGraph:
    """Make a graph of which only the edges are known: scalars are their sums."""
    none = np.zeros(len(rows), dtype=np.float32)
    return LocalGraph(rows=rows, scalars=rows.sum(1), biases=none, left_out=none, left_out_abs=none, **parts)


def _list(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    if not isinstance(content[name], list):
        raise TypeError(f"{name} is no list")
    return content[name]


def _place(node: Mapping[str, Any], kind: str) -> tuple[int, ...]:
    """Give (layer, position, id) of a feature, (layer, position) of an error, (position, token) of a token."""
    pos = int(node["ctx_idx"])
    if kind == _FEATURE:
        # The number under `feature` is packed in several ways; the id names layer and feature plainly.
        layer, name, _ = str(node["node_id"]).split("_")
        return int(layer), pos, int(name)
    if kind == _ERROR:
        return int(node["layer"]), pos
    if kind == _TOKEN:
        return pos, int(str(node["node_id"]).split("_")[1])
    return (pos,)


def _check_position(pos: int, n_pos: int) -> None:
    if not 0 <= pos < n_pos:
        raise ValueError(f"a node stands at layer or position {pos} of {n_pos}")


def _name(numbers: dict[str, int], node: Mapping[str, Any], number: int) -> None:
    name = str(node["node_id"])
    if name in numbers:
        raise ValueError(f"two nodes are called {name}")
    numbers[name] = number
