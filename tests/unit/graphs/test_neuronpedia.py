"""The JSON of a graph: as Neuronpedia's page reads it, and read back; other tools' files, damaged and hostile ones."""

import copy
import json
from typing import Any

import numpy as np
import pytest

from hagd.errors import InvalidInputError
from hagd.graphs.local_influence import prune
from hagd.graphs.neuronpedia import Labels, from_neuronpedia, to_neuronpedia
from unit.graphs.local_graphs import random_graph

KINDS = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}


def written(seed: int = 0, shares: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    graph = random_graph(seed)
    return json.loads(json.dumps(to_neuronpedia(graph, prune(graph, *shares), Labels("a-graph", "a-model", shares[0]))))


def test_a_file_holds_what_its_readers_look_for() -> None:
    content = written()
    assert set(content) == {"metadata", "qParams", "nodes", "links"}
    assert content["metadata"]["slug"] == "a-graph"
    assert {node["feature_type"] for node in content["nodes"]} == KINDS
    ids = [node["node_id"] for node in content["nodes"]]
    assert len(ids) == len(set(ids))
    assert {end for link in content["links"] for end in (link["source"], link["target"])} <= set(ids)
    assert sum(node["is_target_logit"] for node in content["nodes"]) == 1


def test_heads_as_nodes_have_no_place_in_the_file() -> None:
    graph = random_graph(n_heads=2)
    with pytest.raises(InvalidInputError, match="heads"):
        to_neuronpedia(graph, prune(graph), Labels("a-graph", "a-model"))


def test_what_was_written_whole_is_read_back() -> None:
    graph, back = random_graph(), from_neuronpedia(written())
    names = {tuple(row): number for number, row in enumerate(graph.features.tolist())}
    at = [names[tuple(row)] for row in back.features.tolist()]
    # Features that nothing reads or that read nothing are pruned whatever the shares.
    columns = at + list(range(len(graph.features), graph.rows.shape[1]))
    rows = at + list(range(len(graph.features), len(graph.rows)))
    assert back.rows == pytest.approx(graph.rows[rows][:, columns], rel=1e-6)
    assert back.tokens.tolist() == graph.tokens.tolist()
    assert [it.token for it in back.targets] == [it.token for it in graph.targets]
    assert [it.weight for it in back.targets] == pytest.approx([it.weight for it in graph.targets])
    assert back.activations == pytest.approx(graph.activations[at], rel=1e-6)


def test_errors_that_are_called_like_features_are_refused() -> None:
    content = written()
    error = next(node for node in content["nodes"] if node["feature_type"] == "mlp reconstruction error")
    feature = next(node for node in content["nodes"] if node["feature_type"] == "cross layer transcoder")
    error["node_id"] = feature["node_id"]
    with pytest.raises(InvalidInputError, match="two nodes"):
        from_neuronpedia(content)


@pytest.mark.parametrize(
    "path",
    [
        ("metadata",),
        ("nodes",),
        ("links",),
        ("nodes", 0, "feature_type"),
        ("nodes", 0, "ctx_idx"),
        ("links", 0, "source"),
        ("links", 0, "weight"),
    ],
)
@pytest.mark.parametrize("value", [None, "x", [], {}, 1e400, -5, "10_99_x"])
def test_damage_is_told_as_such(path: tuple[Any, ...], value: Any) -> None:
    content = copy.deepcopy(written())
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    if (path[-1] == "weight" and value == -5) or (path[-1] == "links" and value == []):
        assert np.isfinite(from_neuronpedia(content).rows).all()
        return
    with pytest.raises(InvalidInputError):
        from_neuronpedia(content)
