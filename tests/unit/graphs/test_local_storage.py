"""A local graph survives being an artifact, and what is none is told as such."""

from dataclasses import fields, replace

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.graphs.local_storage import local_graph_from_document, local_graph_to_document
from unit.graphs.local_graphs import random_graph


@pytest.mark.parametrize("n_heads", [0, 2])
def test_a_graph_is_read_as_it_was_written(n_heads: int) -> None:
    graph = replace(random_graph(n_heads=n_heads), provenance={"model": "abc"})
    back = local_graph_from_document(local_graph_to_document(graph))
    for field in fields(graph):
        mine, theirs = getattr(graph, field.name), getattr(back, field.name)
        if isinstance(mine, np.ndarray):
            assert np.array_equal(mine, theirs), field.name
        else:
            assert mine == theirs, field.name


@pytest.mark.parametrize("name", ["rows", "features", "tokens"])
def test_a_part_that_is_missing_or_does_not_fit_is_told(name: str) -> None:
    document = local_graph_to_document(random_graph())
    less = {key: value for key, value in document.tensors.items() if key != name}
    with pytest.raises(CorruptArtifactError):
        local_graph_from_document(Document(document.content, less))
    with pytest.raises(CorruptArtifactError):
        local_graph_from_document(Document(document.content, {**document.tensors, name: document.tensors[name][:-1]}))


def test_heads_out_of_order_or_place_are_told() -> None:
    document = local_graph_to_document(random_graph(n_heads=2))
    heads = document.tensors["heads"]
    beyond = heads.copy()
    beyond[-1, 2] = 99
    for wrong in (heads[::-1], beyond, heads[:-1]):
        with pytest.raises(CorruptArtifactError):
            local_graph_from_document(Document(document.content, {**document.tensors, "heads": wrong}))


def test_a_graph_in_which_a_head_feeds_one_before_it_is_told() -> None:
    graph = random_graph(n_heads=2)
    rows = graph.rows.copy()
    rows[graph.n_features, -1] = 1.0
    with pytest.raises(ValueError, match="flows into layer 0"):
        replace(graph, rows=rows)


def test_another_document_is_no_graph() -> None:
    with pytest.raises(CorruptArtifactError, match="format"):
        local_graph_from_document(Document({"format": "hagd.graph/1"}, {}))
