"""A trace as its readers meet it: from its artifacts, by the names of its nodes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.targets import Targets, difference, of_tokens, of_vector, together
from hagd.attribution.trace import Trace
from hagd.dictionaries.storage import dictionaries_to_document
from hagd.errors import InvalidInputError
from hagd.graphs.local_storage import local_graph_to_document
from hagd.models.storage import model_to_document
from unit.attribution.frozen_models import frozen_prompt, gated
from unit.attribution.test_edges import ends


def single_precision(document: Document) -> Document:
    return Document(document.content, {name: it.astype("float32") for name, it in document.tensors.items()})


def traced(architecture: str, *, heads: bool, choose: Callable[[FrozenPrompt], Targets] = ends) -> Trace:
    frozen = frozen_prompt(architecture, "gated")
    config = LocalGraphConfig(heads=heads)
    graph = build_local_graph(frozen, PromptText("", ()), choose(frozen), config, silent)
    documents = {
        "model": single_precision(model_to_document(frozen.model)),
        "dictionaries": single_precision(dictionaries_to_document(gated(frozen.model), {})),
        "local_graph": local_graph_to_document(replace(graph, provenance={"plain_positions": "0"})),
    }
    read: Callable[[str], Document] = documents.__getitem__
    return Trace.of(read)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_an_edge_is_split_alike_whether_heads_are_nodes_or_not(architecture: str) -> None:
    plain, cut = traced(architecture, heads=False), traced(architecture, heads=True)
    for source, target in [("token@1", "target.0"), ("error.0@4", "target.1"), ("token@5", "target.0")]:
        weight = plain.graph.rows[plain.row(plain.number(target)), plain.number(source)]
        for trace in (plain, cut):
            direct, shares = trace.heads(trace.number(source), trace.number(target))
            assert direct + sum(share.weight for share in shares) == pytest.approx(weight, rel=1e-4, abs=1e-5)
        direct, _ = cut.heads(cut.number(source), cut.number(target))
        assert cut.graph.rows[cut.row(cut.number(target)), cut.number(source)] == pytest.approx(direct, abs=1e-5)


def differing(frozen: FrozenPrompt) -> Targets:
    """Give a logit, a difference of two, and a vector."""
    vector = torch.arange(14, dtype=torch.float64)
    return together([of_tokens(frozen, [5]), difference(frozen, 3, 5, "3 - 5"), of_vector(frozen, vector, "ramp")])


def test_edges_into_differences_and_vectors_are_split_by_heads_too() -> None:
    trace = traced("llama", heads=False, choose=differing)
    weights = []
    for target in ("target.0", "target.1", "target.2"):
        weights.append(trace.graph.rows[trace.row(trace.number(target)), trace.number("token@1")])
        direct, shares = trace.heads(trace.number("token@1"), trace.number(target))
        assert direct + sum(share.weight for share in shares) == pytest.approx(weights[-1], rel=1e-4, abs=1e-5)
    assert len({round(float(weight), 4) for weight in weights}) == 3


def test_a_graph_that_does_not_say_what_a_target_reads_cannot_split_its_edges() -> None:
    trace = traced("llama", heads=False, choose=differing)
    foreign = replace(trace, graph=replace(trace.graph, directions=None))
    assert foreign.heads(foreign.number("token@1"), foreign.number("target.0"))[1]
    with pytest.raises(InvalidInputError, match="what its target '3 - 5' reads"):
        foreign.heads(foreign.number("token@1"), foreign.number("target.1"))
    with pytest.raises(ValueError, match="directions"):
        replace(trace.graph, directions=trace.graph.directions[:1])  # pyright: ignore[reportOptionalSubscript]


def test_nodes_are_numbered_in_the_order_of_columns_and_targets() -> None:
    trace = traced("llama", heads=True)
    graph, names = trace.graph, trace.names()
    assert len(names) == len(set(names)) == graph.n_nodes
    rows = graph.rows_of_nodes().tolist()
    for name in ("head.0.0@0", "head.2.3@4", "target.0"):
        assert rows[trace.row(trace.number(name))] == trace.number(name)
    assert trace.summary()["heads"] == graph.n_head_nodes == 3 * 6 * 6
    with pytest.raises(InvalidInputError, match="nothing flows into"):
        trace.row(trace.number("token@5"))


@pytest.mark.parametrize(("source", "target"), [("head.0.1@2", "target.0"), ("token@0", "head.2.1@3")])
def test_the_edges_of_a_head_are_not_split_by_heads(source: str, target: str) -> None:
    trace = traced("llama", heads=True)
    with pytest.raises(InvalidInputError, match="edges of a head"):
        trace.heads(trace.number(source), trace.number(target))


def test_a_score_is_split_over_the_nodes_that_are_no_heads() -> None:
    plain, cut = traced("llama", heads=False), traced("llama", heads=True)
    score, pairs = cut.score_of(1, 2, 4, 3)
    expected, same = plain.score_of(1, 2, 4, 3)
    assert (score, pairs) == (expected, same)
