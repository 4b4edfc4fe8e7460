"""Products in bfloat16, also where the processor only emulates them, and sums that stay float32."""

import numpy as np
import pytest
import torch

from hagd.attribution.blocks import Block, prepare_block
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import Coordinates
from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.heard_tokens import written_about_tokens
from hagd.attribution.replacement import Replacement
from hagd.attribution.standing import Standing
from hagd.graphs.local_graph import LocalGraph
from unit.attribution.frozen_models import ARCHITECTURES, DICTIONARIES, N_LAYERS, TOKENS
from unit.attribution.test_edges import ends
from unit.hagd_coarsening.tiny import map_tensors, tiny_model

ROUNDING = 2.0**-8
"""Largest relative error of rounding to bfloat16, which keeps 8 bits."""
PER_LAYER = 6
"""Roundings that a read vector and its edges meet in one block."""


def single_precision_prompt(architecture: str, kind: str) -> FrozenPrompt:
    exact = tiny_model(architecture, N_LAYERS)
    model, dictionaries = map_tensors((exact, DICTIONARIES[kind](exact)), torch.Tensor.float)
    return freeze(model, Replacement(dictionaries, model), TOKENS)


def graph_of(frozen: FrozenPrompt, *, half: bool) -> LocalGraph:
    return build_local_graph(frozen, PromptText("", ()), ends(frozen), LocalGraphConfig(half=half), silent)


def with_instructions(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    def answer(device: torch.device) -> bool:
        del device
        return there

    monkeypatch.setattr("hagd.attribution.descent.multiplies_bfloat16", answer)


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_in_half_precision_are_those_in_single_but_for_rounding(
    architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = single_precision_prompt(architecture, kind)
    with_instructions(monkeypatch, True)
    half, single = graph_of(frozen, half=True), graph_of(frozen, half=False)
    assert half.rows.dtype == np.float32
    off = np.abs(half.rows - single.rows) / np.abs(single.rows).max(1, keepdims=True)
    reached = single.rows != 0
    assert off[~reached].max(initial=0) == 0
    assert ROUNDING / 100 < np.sqrt((off[reached] ** 2).mean()) < ROUNDING
    assert off.max() < PER_LAYER * (N_LAYERS + 1) * ROUNDING


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_instructions_the_mode_is_single_precision(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = single_precision_prompt(architecture, "gated")
    with_instructions(monkeypatch, False)
    assert (graph_of(frozen, half=True).rows == graph_of(frozen, half=False).rows).all()


def test_what_heads_add_to_a_large_vector_is_not_lost() -> None:
    """One head writes 256 about the token and 299 others a half each: kept in bfloat16, the sum would stay at 256."""
    n_heads = 300
    writes = torch.full((1, n_heads), 0.5)
    writes[0, 0] = 256
    block = Block(
        w_o=writes.to(torch.bfloat16),
        w_v=torch.ones(1, 1, dtype=torch.bfloat16),
        pattern=torch.ones(1, n_heads, 1, 1, dtype=torch.bfloat16),
        mixing=(),
        skip=None,
        skip_scale=torch.ones(1, 1),
        writers={},
        slots={},
    )
    found = written_about_tokens(block, torch.ones(1, 1, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert float(found) == pytest.approx(writes.sum(), rel=ROUNDING)


def test_what_layers_add_to_a_large_vector_is_not_lost() -> None:
    """In bfloat16 the neighbours of 256 are 255 and 258, so sums kept in it would never move."""
    frozen = single_precision_prompt("gpt2", "mixed")
    columns = Columns.of(frozen)
    block = prepare_block(frozen, columns, 0, torch.bfloat16)
    coordinates = Coordinates([block], 0, products=torch.bfloat16, sums=torch.float32)
    rows = Standing(torch.tensor([1, 3, 5]), columns)
    generator, times = torch.Generator().manual_seed(3), 200
    carried = (torch.rand(6, 3, len(block.w_v), generator=generator) * 0.05).to(torch.bfloat16)
    state = coordinates.begin(rows, 0)
    state.coordinates.zero_()
    coordinates.settle(state, torch.full((3, 14), 256.0), rows, 0)
    begun, lost = state.coordinates.clone(), state.coordinates.to(torch.bfloat16)
    added = carried @ block.w_v
    for _ in range(times):
        coordinates.take_in(state, carried, rows, 0)
        lost += added
    assert state.coordinates.dtype == torch.float32
    expected = begun.double() + times * added.double()
    # Each sum is rounded to 24 bits, at most by half a unit of the last one of what is there.
    bound = times * 2.0**-24 * expected.abs().max()
    assert (state.coordinates - expected).abs().max() <= bound
    assert (lost.double() - expected).abs().max() > 100 * bound
