"""Local graphs as artifact documents."""

from typing import Any

import numpy as np

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.graphs.local_graph import GraphTarget, LocalGraph

FORMAT = "hagd.local-graph/1"
_NUMBERS = ("activations", "rows", "scalars", "biases", "left_out", "left_out_abs")


def local_graph_to_document(graph: LocalGraph) -> Document:
    """Give the artifact of a local graph."""
    content = {
        "format": FORMAT,
        "prompt": graph.prompt,
        "token_texts": list(graph.token_texts),
        "n_layers": graph.n_layers,
        "targets": [{"name": it.name, "weight": it.weight, "token": it.token} for it in graph.targets],
        "provenance": dict(graph.provenance),
    }
    tensors: dict[str, Any] = {
        "tokens": graph.tokens.astype(np.int32),
        "features": graph.features.astype(np.int32),
        **{name: getattr(graph, name).astype(np.float32, copy=False) for name in _NUMBERS},
    }
    if graph.n_head_nodes:
        tensors["heads"] = graph.heads.astype(np.int32)
    if graph.directions is not None:
        tensors["directions"] = graph.directions.astype(np.float32)
    return Document(content, tensors)


def local_graph_from_document(document: Document) -> LocalGraph:
    """Read what `local_graph_to_document` wrote.

    Raises:
        CorruptArtifactError: it is no local graph, of another version, or its parts do not fit.
    """
    content, tensors = document.content, document.tensors
    if content.get("format") != FORMAT:
        raise CorruptArtifactError(
            f"expected a document of format {FORMAT!r}, got {content.get('format')!r}", "build the graph again"
        )
    try:
        targets = tuple(GraphTarget(it["name"], float(it["weight"]), it["token"]) for it in content["targets"])
        graph = LocalGraph(
            prompt=content["prompt"],
            tokens=tensors["tokens"].astype(np.int64),
            token_texts=tuple(content["token_texts"]),
            n_layers=int(content["n_layers"]),
            features=tensors["features"].astype(np.int64),
            targets=targets,
            provenance=dict(content["provenance"]),
            heads=tensors.get("heads", np.zeros((0, 3))).astype(np.int64),
            directions=tensors.get("directions"),
            **{name: tensors[name] for name in _NUMBERS},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptArtifactError(f"the local graph lacks a part: {error!r}", "build the graph again") from error
    bounds = np.array([graph.n_layers, graph.n_pos, np.iinfo(np.int32).max])
    if len(graph.features) and not ((graph.features >= 0) & (graph.features < bounds)).all():
        raise CorruptArtifactError("a feature of the local graph stands outside of it", "build the graph again")
    return graph
