"""Every edge of a local graph is the effect of an intervention, all else clamped, and the edges into a node add up."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.coordinates import coordinate_layers
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.targets import LogitChoice, Targets, likeliest
from hagd.graphs.local_graph import LocalGraph
from unit.attribution.frozen_models import (
    ARCHITECTURES,
    DICTIONARIES,
    N_LAYERS,
    TOKENS,
    Simulation,
    Source,
    frozen_prompt,
)


def ends(frozen: FrozenPrompt) -> Targets:
    return likeliest(frozen, LogitChoice(0.8, 4))


def graph_of(frozen: FrozenPrompt, most: int | None = None) -> LocalGraph:
    config = LocalGraphConfig(most_features=most)
    return build_local_graph(frozen, PromptText("", ()), ends(frozen), config, silent)


def sources(graph: LocalGraph) -> list[Source]:
    features: list[Source] = [("feature", *map(int, row)) for row in graph.features]  # type: ignore[misc]
    errors: list[Source] = [("error", layer, pos, 0) for layer in range(graph.n_layers) for pos in range(graph.n_pos)]
    return [*features, *errors, *(("token", -1, pos, 0) for pos in range(graph.n_pos))]


def edges_are_effects(graph: LocalGraph, simulation: Simulation, directions: Tensor, columns: Sequence[Source]) -> None:
    """Let every source write half as much again, and compare what moves with its column of the graph."""
    before = simulation.scalars({}, directions)
    torch.testing.assert_close(torch.from_numpy(graph.scalars).double(), before, rtol=1e-5, atol=1e-5)
    for column, source in enumerate(columns):
        effect = (simulation.scalars({source: 1.5}, directions) - before) / 0.5
        torch.testing.assert_close(torch.from_numpy(graph.rows[:, column]), effect, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_edge_is_the_effect_of_its_source_with_all_else_clamped(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    graph = graph_of(frozen)
    edges_are_effects(graph, Simulation(frozen), ends(frozen).directions, sources(graph))
    assert abs(graph.rows).max() > 1e-2


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS[:3]])
def test_edges_through_more_layers_than_value_spans_hold_are_effects_too(tokens: Tensor) -> None:
    frozen = frozen_prompt("llama", "neurons", tokens, n_layers=6)
    graph = graph_of(frozen)
    assert 0 < coordinate_layers(frozen, len(sources(graph))) < 5
    edges_are_effects(graph, Simulation(frozen), ends(frozen).directions, sources(graph))


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_and_biases_add_up_to_the_scalar(architecture: str, kind: str) -> None:
    graph = graph_of(frozen_prompt(architecture, kind))
    together = graph.rows.sum(1) + graph.biases + graph.left_out
    assert together == pytest.approx(graph.scalars, abs=1e-4)
    assert graph.left_out == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["mixed", "cross-layer", "neurons"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_chosen_part_has_the_edges_of_the_whole(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    whole, part = graph_of(frozen), graph_of(frozen, most=17)
    assert len(part.features) == 17
    names = {tuple(row): number for number, row in enumerate(whole.features.tolist())}
    at = [names[tuple(row)] for row in part.features.tolist()]
    columns = at + list(range(len(whole.features), whole.rows.shape[1]))
    rows = at + list(range(len(whole.features), whole.rows.shape[0]))
    assert part.rows == pytest.approx(whole.rows[rows][:, columns], abs=1e-12)
    assert part.activations == pytest.approx(whole.activations[at])
    others = [column for column in range(len(whole.features)) if column not in set(at)]
    assert part.left_out == pytest.approx(whole.rows[rows][:, others].sum(1), abs=1e-5)
    assert part.left_out_abs == pytest.approx(abs(whole.rows[rows][:, others]).sum(1), abs=1e-5)


@given(
    st.lists(st.integers(0, 22), min_size=1, max_size=9),
    st.sampled_from(ARCHITECTURES),
    st.sampled_from(list(DICTIONARIES)),
)
@settings(max_examples=25, deadline=None)
def test_nothing_flows_back_in_time_or_up_in_depth(tokens: list[int], architecture: str, kind: str) -> None:
    graph = graph_of(frozen_prompt(architecture, kind, torch.tensor(tokens)))
    n_features, n_layers, n_pos = graph.n_features, graph.n_layers, graph.n_pos
    layers = [*graph.features[:, 0], *(n_layers for _ in graph.targets)]
    positions = [*graph.features[:, 1], *(n_pos - 1 for _ in graph.targets)]
    columns = [(layer, pos) for layer, pos, _ in graph.features.tolist()]
    columns += [(layer, pos) for layer in range(n_layers) for pos in range(n_pos)]
    columns += [(-1, pos) for pos in range(n_pos)]
    for row, (layer, pos) in enumerate(zip(layers, positions, strict=True)):
        for column, (source_layer, source_pos) in enumerate(columns):
            if source_layer >= layer or source_pos > pos:
                assert graph.rows[row, column] == 0
    assert n_features + len(graph.targets) == graph.rows.shape[0]


def test_a_prompt_with_more_behind_it_keeps_its_edges() -> None:
    short, long = graph_of(frozen_prompt("llama", "mixed", TOKENS[:4])), graph_of(frozen_prompt("llama", "mixed"))
    names = {tuple(row): number for number, row in enumerate(long.features.tolist())}
    at = [names[tuple(row)] for row in short.features.tolist()]
    n_short, n_long = len(short.features), len(long.features)
    ours = short.rows[:n_short, :n_short]
    assert ours == pytest.approx(long.rows[at][:, at], abs=1e-9)
    tokens = slice(n_long + N_LAYERS * 6, n_long + N_LAYERS * 6 + 4)
    assert short.rows[:n_short, n_short + N_LAYERS * 4 :] == pytest.approx(long.rows[at][:, tokens], abs=1e-9)


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_do_not_depend_on_which_products_are_taken_together(
    architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = frozen_prompt(architecture, kind)
    expected = graph_of(frozen).rows
    monkeypatch.setattr("hagd.attribution.meeting._ALONE", {torch.float64: 0})
    monkeypatch.setattr("hagd.attribution.blocks.QUERIES_TOGETHER", 2)
    monkeypatch.setattr("hagd.attribution.descent.QUERIES_TOGETHER", 2)
    monkeypatch.setattr("hagd.attribution.descent.hears_tokens", lambda _frozen: False)
    assert np.abs(graph_of(frozen).rows - expected).max() <= 1e-12 * np.abs(expected).max()
