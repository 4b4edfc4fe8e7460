"""A local graph survives being an artifact, and what is none is told as such."""

from dataclasses import fields, replace

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError
from hagd.graphs.local_storage import local_graph_from_document, local_graph_to_document
from unit.graphs.local_graphs import random_graph


def test_a_graph_is_read_as_it_was_written() -> None:
    graph = replace(random_graph(), provenance={"model": "abc"})
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


def test_another_document_is_no_graph() -> None:
    with pytest.raises(CorruptArtifactError, match="format"):
        local_graph_from_document(Document({"format": "hagd.graph/1"}, {}))
