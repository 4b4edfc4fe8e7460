"""Take in the graph of one prompt from a file, and coarsen it as the graph of a task is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.document import Document
from hagd.errors import InvalidInputError
from hagd.graphs.circuit_tracer import read_circuit_tracer
from hagd.graphs.conversion import to_attribution_graph
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.local_storage import local_graph_from_document, local_graph_to_document
from hagd.graphs.neuronpedia import from_neuronpedia
from hagd.graphs.storage import graph_to_document, hierarchy_to_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.local_files import digest_of_file
from hagd_coarsening.domain.hierarchy import HierarchyConfig, build_hierarchy
from hagd_coarsening.import_handlers import read_hierarchy, read_import

MOST_JSON_BYTES: Final = 1 << 30


def take_in(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Read a graph that another tool made. See `StageFunction`.

    Raises:
        InvalidInputError: it cannot be read, is no graph, or not the one that was asked for.
    """
    del inputs
    checked = read_import(config)
    path = Path(checked.path).expanduser()
    context.progress(0, 1, f"reading {path.name}")
    if checked.digest is not None and checked.digest != digest_of_file(checked.path):
        raise InvalidInputError(f"{path.name} is not the file that was asked for", "give the one the digest belongs to")
    graph = read_circuit_tracer(path) if path.suffix.lower() == ".pt" else _read_json(path)
    return {"local_graph": local_graph_to_document(graph)}


def _read_json(path: Path) -> LocalGraph:
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise InvalidInputError(f"{path.name} is larger than {MOST_JSON_BYTES >> 20} MiB", "prune the graph first")
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path.name} cannot be read: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path.name} is no JSON: {error}", "give the JSON of a graph, or a .pt") from error
    return from_neuronpedia(content)


def coarsen(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Build the hierarchy of the graph of one prompt. See `StageFunction`.

    Raises:
        CorruptArtifactError: the input is no such graph.
    """
    checked = read_hierarchy(config)
    graph = to_attribution_graph(local_graph_from_document(inputs["local_graph"]))
    context.progress(0, 1, f"coarsening {graph.n_nodes} nodes and {len(graph.source)} edges")
    hierarchy = build_hierarchy(
        graph,
        HierarchyConfig(
            branching=checked.branching, affinity=checked.affinity, n_vectors=checked.n_vectors, seed=checked.seed
        ),
    )
    return {"graph": graph_to_document(graph), "hierarchy": hierarchy_to_document(hierarchy)}
