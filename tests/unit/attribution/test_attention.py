"""Edges split by heads, and scores split by what was written at query and key: exact, tested by intervention."""

import dataclasses

import pytest
import torch

from hagd.attribution.columns import Columns
from hagd.attribution.descent import Descent
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.heads import HeadLoadings, head_loadings
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.attribution.scores import attribute_score
from hagd.errors import InvalidInputError
from hagd.models.attention import attention_inputs
from unit.attribution.frozen_models import ARCHITECTURES, DICTIONARIES, N_LAYERS, Simulation, frozen_prompt, single
from unit.attribution.test_edges import ends, graph_of, sources


def all_readers(frozen: FrozenPrompt) -> list[Readers]:
    """Give features by layer, then the targets, as the rows of a graph come."""
    silent = frozen.replay(nodes=False)
    layers = [
        read_features(frozen, silent, number, torch.arange(len(layer.features)))
        for number, layer in enumerate(frozen.layers)
        if len(layer.features)
    ]
    return [*layers, read_targets(frozen, silent, ends(frozen))]


def loadings_of(frozen: FrozenPrompt) -> list[HeadLoadings]:
    descent = Descent(frozen, Columns.of(frozen))
    return [head_loadings(descent, readers, frozen.model.config.n_heads) for readers in all_readers(frozen)]


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_and_the_residual_stream_add_up_to_the_edge(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    found = loadings_of(frozen)
    together = torch.cat([it.by_head.sum((0, 1)) + it.direct for it in found])
    torch.testing.assert_close(together, torch.from_numpy(graph_of(frozen).rows), rtol=0, atol=1e-10)
    assert max(float(it.by_head.abs().max()) for it in found) > 1e-2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_between_positions_nothing_goes_without_a_head(architecture: str) -> None:
    frozen = frozen_prompt(architecture, "mixed")
    columns = sources(graph_of(frozen))
    for readers, it in zip(all_readers(frozen), loadings_of(frozen), strict=True):
        for row, pos in enumerate(readers.positions.tolist()):
            elsewhere = [column for column, source in enumerate(columns) if source[2] != pos]
            assert not it.direct[row, elsewhere].any()


@pytest.mark.parametrize("kind", ["mixed", "cross-layer"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loading_of_a_head_is_what_is_lost_without_it(architecture: str, kind: str) -> None:
    """Of the last heads before a target no path goes on through another one, so taking one away takes its share."""
    frozen = frozen_prompt(architecture, kind)
    whole, loadings = graph_of(frozen), loadings_of(frozen)[-1]
    last, head, n_pos = N_LAYERS - 1, 2, frozen.n_pos
    pattern = frozen.layers[last].pattern.clone()
    pattern[head, n_pos - 1] = 0
    layers = (*frozen.layers[:last], dataclasses.replace(frozen.layers[last], pattern=pattern))
    descent = Descent(dataclasses.replace(frozen, layers=layers), Columns.of(frozen))
    readers = read_targets(frozen, frozen.replay(nodes=False), ends(frozen))
    without = torch.zeros(len(readers), len(descent.columns), dtype=torch.float64)
    descent.run(readers.vectors, readers.positions, readers.site, without)
    lost = torch.from_numpy(whole.rows[len(whole.features) :]) - without
    torch.testing.assert_close(loadings.by_head[last, head], lost, rtol=0, atol=1e-10)
    assert lost.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["mixed", "neurons", "cross-layer"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_score_is_the_sum_of_its_pairs_and_moves_with_a_source_as_they_say(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    layer, head, query, key = 2, 3, 4, 1
    found = attribute_score(frozen, Descent(frozen, Columns.of(frozen)), layer, head, query, key)
    simulation = Simulation(frozen)

    def score(scale: dict) -> float:
        resid = resid_before(frozen, simulation, scale, layer)
        norm, attention = frozen.model.blocks[layer].norm_attention, frozen.model.blocks[layer].attention
        x = single(norm, resid, frozen.layers[layer].attention_scale)
        keys, _ = attention_inputs(attention, x)
        queries = x @ attention.w_q[head] + (0 if attention.b_q is None else attention.b_q[head])
        mine, rotary = keys[head // frozen.model.config.group_size], frozen.model.rotary(frozen.n_pos)
        if rotary is not None:
            queries, mine = rotary.rotate(queries), rotary.rotate(mine)
        return float(queries[query] @ mine[key]) * frozen.model.config.d_head**-0.5

    assert found.score == pytest.approx(score({}), abs=1e-9)
    assert float(found.pairs.sum()) == pytest.approx(found.score, abs=1e-9)
    first = found.strongest(9)
    assert [abs(weight) for *_, weight in first] == pytest.approx(found.pairs.abs().flatten().topk(9).values.tolist())
    columns = sources(graph_of(frozen))
    strongest = found.pairs.abs().sum(0)[:-2] + found.pairs.abs().sum(1)[:-2]
    for column in strongest.topk(5).indices.tolist():
        factor = torch.ones(len(found.pairs), dtype=torch.float64)
        factor[column] = 1.7
        expected = float(factor @ found.pairs @ factor)
        assert score({columns[column]: 1.7}) == pytest.approx(expected, abs=1e-9)
        assert abs(expected - found.score) > 1e-4


def resid_before(frozen: FrozenPrompt, simulation: Simulation, scale: dict, layer: int) -> torch.Tensor:
    """Give the residual that enters a block, as the simulation has it."""
    heard, final = simulation.residuals(scale)
    if frozen.model.config.parallel_residual:
        return heard[layer]
    before = layer - 1
    return heard[before] + simulation._written(before, heard[before], scale) if layer else final


def test_heads_and_positions_that_do_not_exist_are_refused() -> None:
    frozen = frozen_prompt("llama", "mixed")
    descent = Descent(frozen, Columns.of(frozen))
    for asked in [(3, 0, 1, 0), (0, 6, 1, 0), (0, 0, 1, 2), (0, 0, 9, 0)]:
        with pytest.raises(InvalidInputError):
            attribute_score(frozen, descent, *asked)
