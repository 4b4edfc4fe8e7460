"""Graphs that circuit-tracer saved are read, whatever classes it had; nothing that a file names is run."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from hagd.errors import InvalidInputError
from hagd.graphs.circuit_tracer import read_circuit_tracer
from hagd.graphs.conversion import to_attribution_graph
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.nodes import Node
from unit.graphs.local_graphs import random_graph


class Target(NamedTuple):
    token_str: str
    vocab_idx: int


class Config:
    def __init__(self) -> None:
        self.n_layers, self.dtype, self.device = 3, torch.float32, torch.device("cpu")


def content_of(graph: LocalGraph) -> dict[str, Any]:
    """Give what its `Graph.to_pt` saves: more active features than selected ones among it."""
    order = torch.arange(graph.n_features) * 2
    active = torch.zeros(2 * graph.n_features, 3, dtype=torch.int64)
    active[order] = torch.from_numpy(graph.features)
    values = torch.zeros(2 * graph.n_features)
    values[order] = torch.from_numpy(graph.activations)
    return {
        "input_string": graph.prompt,
        "adjacency_matrix": torch.from_numpy(graph.adjacency()),
        "cfg": Config(),
        "active_features": active,
        "logit_targets": [Target(it.name, int(it.token or 0)) for it in graph.targets],
        "logit_probabilities": torch.from_numpy(graph.weights),
        "vocab_size": 50,
        "input_tokens": torch.from_numpy(graph.tokens),
        "selected_features": order,
        "activation_values": values,
        "scan": None,
    }


def save(content: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save as another package would, whose modules are not here when the file is read."""
    foreign = ModuleType("their_package")
    foreign.Target, foreign.Config = Target, Config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", foreign)
    for it in (Target, Config):
        monkeypatch.setattr(it, "__module__", "their_package")
    torch.save(content, path)
    monkeypatch.delitem(sys.modules, "their_package")
    return path


def test_a_saved_graph_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph()
    back = read_circuit_tracer(save(content_of(graph), tmp_path / "g.pt", monkeypatch))
    assert np.array_equal(back.rows, graph.rows)
    assert np.array_equal(back.features, graph.features)
    assert np.array_equal(back.activations, graph.activations)
    assert [(it.name, it.token) for it in back.targets] == [(it.name, it.token) for it in graph.targets]
    assert [it.weight for it in back.targets] == pytest.approx([it.weight for it in graph.targets])
    assert back.tokens.tolist() == graph.tokens.tolist()
    assert "their_package" not in sys.modules


def test_older_files_name_their_targets_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = content_of(random_graph())
    content["logit_tokens"] = torch.tensor([it.vocab_idx for it in content.pop("logit_targets")])
    back = read_circuit_tracer(save(content, tmp_path / "g.pt", monkeypatch))
    assert [it.token for it in back.targets] == [7, 8, 9]


def make(path: Path) -> None:
    """Leave a trace; this module can be imported while the file is read."""
    path.mkdir()


class Attack:
    """An object that would be made by a call of something else."""

    def __init__(self, call: Any, path: Path) -> None:
        self.call, self.path = call, path

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, (self.path,)


def test_nothing_that_a_file_names_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, made = random_graph(), tmp_path / "made"
    content = content_of(graph) | {"cfg": Attack(make, made)}
    assert np.array_equal(read_circuit_tracer(save(content, tmp_path / "g.pt", monkeypatch)).rows, graph.rows)
    assert not made.exists()
    # What no graph has is refused: methods that are looked up and called, and functions of the system.
    for call in (Path.mkdir, os.mkdir):
        with pytest.raises(InvalidInputError):
            read_circuit_tracer(save(content | {"cfg": Attack(call, made)}, tmp_path / "h.pt", monkeypatch))
    assert not made.exists()


def test_the_format_before_archives_is_refused(tmp_path: Path) -> None:
    torch.save({"adjacency_matrix": torch.zeros(2, 2)}, tmp_path / "g.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidInputError):
        read_circuit_tracer(tmp_path / "g.pt")


@pytest.mark.parametrize("name", ["adjacency_matrix", "input_tokens", "active_features", "logit_probabilities"])
@pytest.mark.parametrize("value", [None, 3, torch.zeros(2), torch.full((40, 40), float("nan")), "x"])
def test_parts_that_do_not_fit_are_told(name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(content_of(random_graph()) | {name: value}, tmp_path / "g.pt", monkeypatch)
    with pytest.raises(InvalidInputError):
        read_circuit_tracer(path)


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x80\x04}\x94\x8c\x01a\x94K\x01s.", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "g.pt"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError):
        read_circuit_tracer(path)
    with pytest.raises(InvalidInputError):
        read_circuit_tracer(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("n_heads", [0, 2])
def test_as_a_graph_of_the_pipeline_its_edges_run_forward_and_none_is_lost(n_heads: int) -> None:
    graph = random_graph(2, n_heads=n_heads)
    found = to_attribution_graph(graph)
    assert (found.source < found.target).all()
    assert found.n_nodes == graph.rows.shape[1] + 1
    assert found.nodes[-1] == Node("logit", graph.n_layers, f"p{graph.n_pos - 1}")
    numbers = {node: number for number, node in enumerate(found.nodes)}
    layer, pos, name = graph.features[-1].tolist()
    target = numbers[Node("feature", layer, f"p{pos}", name)]
    incoming = dict(zip(found.source[found.target == target], found.weight[found.target == target], strict=True))
    token = numbers[Node("token", -1, "p0")]
    assert incoming.get(token, 0.0) == pytest.approx(
        float(graph.rows[graph.n_features - 1, graph.n_features + graph.n_errors])
    )
    inner = graph.rows[: graph.n_features + graph.n_head_nodes]
    assert found.weight_abs.sum() - found.weight_abs[found.target == found.n_nodes - 1].sum() == pytest.approx(
        float(np.abs(inner).sum()), rel=1e-5
    )
    assert sum(node.kind == "head" for node in found.nodes) == graph.n_head_nodes
    into_logit = found.weight_abs[found.target == found.n_nodes - 1].sum()
    assert into_logit == pytest.approx(float((graph.weights @ np.abs(graph.rows[len(inner) :])).sum()), rel=1e-5)
