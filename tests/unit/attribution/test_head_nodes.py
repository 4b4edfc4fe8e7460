"""Graphs whose heads are nodes: edges are effects of interventions, and paths through heads add up to edges."""

import pytest
import torch
from torch import Tensor

from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.head_nodes import HeadOutputs, OutputReaders, climb
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.graphs.local_graph import LocalGraph
from unit.attribution.frozen_models import (
    ARCHITECTURES,
    DICTIONARIES,
    N_LAYERS,
    CutSimulation,
    Source,
    frozen_prompt,
)
from unit.attribution.test_edges import edges_are_effects, ends, graph_of, sources


def head_graph(frozen: FrozenPrompt, most: int | None = None) -> LocalGraph:
    config = LocalGraphConfig(most_features=most, heads=True)
    return build_local_graph(frozen, PromptText("", ()), ends(frozen), config, silent)


def all_sources(graph: LocalGraph) -> list[Source]:
    heads: list[Source] = [("head", layer, pos, head) for layer, head, pos in graph.heads.tolist()]
    return [*sources(graph), *heads]


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_edge_is_the_effect_of_its_source_with_all_else_clamped(architecture: str, kind: str) -> None:
    """The output of a head, a feature, an error or a token is shifted; every other head keeps what it gave."""
    frozen = frozen_prompt(architecture, kind)
    graph = head_graph(frozen)
    edges_are_effects(graph, CutSimulation(frozen), ends(frozen).directions, all_sources(graph))
    from_heads = graph.rows[:, graph.rows.shape[1] - graph.n_head_nodes :]
    into_heads = graph.rows[graph.n_features : graph.n_features + graph.n_head_nodes]
    assert min(abs(from_heads).max(), abs(into_heads).max()) > 1e-2


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_paths_through_heads_and_direct_edges_add_up_to_the_edge_without_head_nodes(
    architecture: str, kind: str
) -> None:
    """A head hands on a vector, so paths are summed over the coordinates of heads, each a node for the moment."""
    frozen = frozen_prompt(architecture, kind)
    whole, cut = graph_of(frozen), head_graph(frozen)
    n_rows, n_columns = whole.rows.shape
    inner = cut.rows[:, :n_columns]
    direct = torch.from_numpy(inner[[*range(cut.n_features), *range(len(inner) - len(cut.targets), len(inner))]])
    into, between, out = coordinates(frozen, n_rows, n_columns)
    paths = out @ torch.linalg.solve(torch.eye(len(between), dtype=torch.float64) - between, into)
    torch.testing.assert_close(direct + paths, torch.from_numpy(whole.rows), rtol=0, atol=1e-9)
    assert paths.abs().max() > 1e-2


def coordinates(frozen: FrozenPrompt, n_rows: int, n_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give edges from sources into coordinates of heads, among coordinates, and from them into features and targets."""
    columns, outputs, config = Columns.of(frozen), HeadOutputs.of(frozen), frozen.model.config
    silent = frozen.replay(nodes=False, heads=False)
    readers: list[tuple[slice, Readers]] = [
        (columns.of_layer(layer), read_features(frozen, silent, layer, chosen))
        for layer, chosen in enumerate(columns.chosen)
        if len(chosen)
    ]
    readers.append((slice(columns.n_features, n_rows), read_targets(frozen, silent, ends(frozen))))
    everywhere, eye = torch.arange(frozen.n_pos), torch.eye(config.d_head, dtype=torch.float64)
    n_nodes = N_LAYERS * config.n_heads * frozen.n_pos
    heads: list[tuple[slice, OutputReaders]] = []
    at = n_rows
    for which in range(config.d_head):
        for layer in range(N_LAYERS):
            for head in range(config.n_heads):
                direction = eye[which].expand(frozen.n_pos, -1)
                reader = OutputReaders(direction, everywhere, layer, head)
                heads.append((slice(at, at + frozen.n_pos), reader))
                at += frozen.n_pos
    found = torch.zeros(at, n_columns + config.d_head * n_nodes, dtype=torch.float64)
    for which in range(config.d_head):
        unit = tuple(block.attention.w_o[:, which, None].expand(-1, frozen.n_pos, -1) for block in frozen.model.blocks)
        edges = torch.zeros(at, n_columns + n_nodes, dtype=torch.float64)

        def put(place: slice, there: Tensor, met: Tensor, edges: Tensor = edges) -> None:
            edges[place, there] = met

        climb(frozen, columns, HeadOutputs(outputs.inner, unit), readers, heads, put)
        found[:, :n_columns] = edges[:, :n_columns]
        start = n_columns + which * n_nodes
        found[:, start : start + n_nodes] = edges[:, n_columns:]
    return found[n_rows:, :n_columns], found[n_rows:, n_columns:], found[:n_rows, n_columns:]


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_and_biases_add_up_to_the_scalar(architecture: str, kind: str) -> None:
    graph = head_graph(frozen_prompt(architecture, kind))
    assert graph.rows.sum(1) + graph.biases == pytest.approx(graph.scalars, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_between_positions_nothing_goes_without_a_head(architecture: str) -> None:
    frozen = frozen_prompt(architecture, "mixed")
    graph = head_graph(frozen)
    places = [source[2] for source in all_sources(graph)]
    readers = [*graph.features[:, 1].tolist(), *graph.heads[:, 2].tolist(), *(frozen.n_pos - 1 for _ in graph.targets)]
    for row, pos in enumerate(readers):
        is_head = graph.n_features <= row < graph.n_features + graph.n_head_nodes
        elsewhere = [column for column, there in enumerate(places) if (there > pos if is_head else there != pos)]
        assert not graph.rows[row, elsewhere].any()


@pytest.mark.parametrize("kind", ["mixed", "cross-layer", "neurons"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_chosen_part_has_the_edges_of_the_whole(
    architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hagd.attribution.build_heads.SOURCES_TOGETHER", 7)
    frozen = frozen_prompt(architecture, kind)
    whole, part = head_graph(frozen), head_graph(frozen, most=17)
    names = {tuple(row): number for number, row in enumerate(whole.features.tolist())}
    at = [names[tuple(row)] for row in part.features.tolist()]
    columns = at + list(range(len(whole.features), whole.rows.shape[1]))
    rows = at + list(range(len(whole.features), whole.rows.shape[0]))
    assert part.rows == pytest.approx(whole.rows[rows][:, columns], abs=1e-12)
    others = [column for column in range(len(whole.features)) if column not in set(at)]
    assert part.left_out == pytest.approx(whole.rows[rows][:, others].sum(1), abs=1e-5)
    assert part.left_out_abs == pytest.approx(abs(whole.rows[rows][:, others]).sum(1), abs=1e-5)
    assert part.left_out_abs.max() > 1e-3
