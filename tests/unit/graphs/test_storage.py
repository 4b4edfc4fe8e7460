"""Graphs, hierarchies and circuits survive the trip through bytes, and broken ones are refused."""

from dataclasses import replace

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError, NonFiniteError
from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode
from hagd.graphs.hierarchy import Hierarchy, LevelReport
from hagd.graphs.nodes import Node
from hagd.graphs.storage import (
    circuit_from_document,
    circuit_to_document,
    graph_from_document,
    graph_to_document,
    hierarchy_from_document,
    hierarchy_to_document,
)
from unit.graphs.planted import chain_graph

REPORT = LevelReport(5, 0.25, 0.5, 2, 1e-9, 3.5, 0.125, 0.0)


def through_bytes(document: Document) -> Document:
    return Document.decode(document.encode())


def hierarchy() -> Hierarchy:
    return Hierarchy(
        parents=(np.array([0, 1, 1, 2, 3]), np.array([0, 0, 0, 1])),
        levels=(REPORT, replace(REPORT, n_groups=4), replace(REPORT, n_groups=2)),
        module_labels=np.array([0, 1, 0, 1, 1]),
        module_report=replace(REPORT, cyclic_weight=0.125),
        branching=4,
    )


def circuit() -> Circuit:
    leaves = (Node("feature", 0, "a", 3), Node("feature", 0, "a", 5))
    nodes = (
        CircuitNode("s:0", "supernode", 0, "a", leaves, 2, False, 0.5),
        CircuitNode("mlp.1@b", "mlp", 1, "b", (Node("mlp", 1, "b"),), 4609, True, -0.25),
    )
    return Circuit(nodes, 1, (CircuitEdge("s:0", "logit@b", 2.5),), 1, {0: ("a",)}, 77, ({"nodes": 2.0, "kl": 0.5},))


def test_a_graph_comes_back_as_it_was() -> None:
    graph = chain_graph()
    back = graph_from_document(through_bytes(graph_to_document(graph)))
    assert back.nodes == graph.nodes
    assert (back.roles, back.n_layers, back.n_prompts) == (graph.roles, graph.n_layers, graph.n_prompts)
    for name in ("source", "target", "weight", "weight_abs"):
        assert np.array_equal(getattr(back, name), getattr(graph, name))
    assert back.statistics.keys() == graph.statistics.keys()
    assert all(np.array_equal(back.statistics[name], graph.statistics[name]) for name in graph.statistics)


def test_a_hierarchy_comes_back_without_its_timings_so_that_equal_inputs_give_equal_bytes() -> None:
    one, other = hierarchy(), replace(hierarchy(), levels=tuple(replace(r, seconds=9.0) for r in hierarchy().levels))
    assert hierarchy_to_document(one).encode() == hierarchy_to_document(other).encode()
    back = hierarchy_from_document(through_bytes(hierarchy_to_document(one)))
    assert [parent.tolist() for parent in back.parents] == [parent.tolist() for parent in one.parents]
    assert back.module_labels.tolist() == one.module_labels.tolist()
    assert back.levels[1] == replace(one.levels[1], seconds=0.0)
    assert back.members(2).tolist() == [0, 0, 0, 0, 1]


def test_a_circuit_comes_back_as_it_was() -> None:
    assert circuit_from_document(through_bytes(circuit_to_document(circuit()))) == circuit()


def test_an_artifact_of_another_kind_is_refused() -> None:
    with pytest.raises(CorruptArtifactError, match=r"hagd\.graph/1"):
        graph_from_document(circuit_to_document(circuit()))


def test_an_edge_that_runs_backwards_is_refused() -> None:
    graph = replace(chain_graph(), source=np.array([0, 0, 1, 4, 3]), target=np.array([1, 2, 4, 2, 4]))
    with pytest.raises(CorruptArtifactError, match="forward"):
        graph_from_document(graph_to_document(graph))


def test_a_level_that_does_not_fit_is_refused() -> None:
    broken = replace(hierarchy(), parents=(np.array([0, 1, 1, 2, 2]), np.array([0, 0, 0, 1])))
    with pytest.raises(CorruptArtifactError, match="level"):
        hierarchy_from_document(hierarchy_to_document(broken))


def test_a_missing_tensor_is_refused() -> None:
    document = graph_to_document(chain_graph())
    tensors = {name: value for name, value in document.tensors.items() if name != "weight"}
    with pytest.raises(CorruptArtifactError, match="weight"):
        graph_from_document(Document(document.content, tensors))


def test_a_graph_with_a_nan_is_never_written() -> None:
    graph = replace(chain_graph(), weight=np.full(5, np.nan))
    with pytest.raises(NonFiniteError, match="weight"):
        graph_to_document(graph).encode()
