"""Brute force: edges are what autograd finds through the frozen replay, and the names of tokens do not matter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hagd.attribution.frozen import FrozenPrompt, freeze, frozen_norm
from hagd.attribution.replacement import Replacement
from unit.attribution.frozen_models import ARCHITECTURES, DICTIONARIES, N_LAYERS, frozen_prompt
from unit.attribution.test_edges import ends, graph_of
from unit.hagd_coarsening.tiny import VOCAB, tiny_model


def scalars(frozen: FrozenPrompt, factors: Tensor, directions: Tensor) -> Tensor:
    """Give what features and directions read when what the nodes write, in the order of columns, has factors."""
    sizes = [len(layer.features) for layer in frozen.layers]
    features, errors, tokens = factors.split([sum(sizes), len(sizes) * frozen.n_pos, frozen.n_pos])
    layers = [
        replace(
            layer,
            features=replace(layer.features, values=layer.features.values * of_features),
            error=layer.error * of_errors[:, None],
        )
        for layer, of_features, of_errors in zip(
            frozen.layers, features.split(sizes), errors.split(frozen.n_pos), strict=True
        )
    ]
    stream = replace(frozen, layers=tuple(layers), embed=frozen.embed * tokens[:, None]).replay(nodes=True)
    found: list[Tensor] = []
    for number, (block, layer) in enumerate(zip(frozen.model.blocks, frozen.layers, strict=True)):
        if not len(layer.features):
            continue
        active, encoder = layer.features, frozen.replacement.encoder(number)
        x = frozen_norm(block.norm_mlp, stream.before_mlp[number], layer.mlp_scale)
        inner = x @ encoder.w_enc + encoder.b_enc
        found.append(inner[active.positions, active.ids] * active.factors)
    end = frozen_norm(frozen.model.norm_final, stream.final, frozen.final_scale)[-1]
    return torch.cat([*found, directions @ end])


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_edge_is_the_gradient_that_autograd_finds(architecture: str, kind: str) -> None:
    frozen = frozen_prompt(architecture, kind)
    graph, directions = graph_of(frozen), ends(frozen).directions

    def read(factors: Tensor) -> Tensor:
        return scalars(frozen, factors, directions)

    ones = torch.ones(graph.rows.shape[1], dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(read, ones)
    torch.testing.assert_close(torch.from_numpy(graph.rows), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(torch.from_numpy(graph.scalars).double(), read(ones), rtol=1e-5, atol=1e-5)


@given(
    st.permutations(range(VOCAB)),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9),
    st.sampled_from(ARCHITECTURES),
    st.sampled_from(list(DICTIONARIES)),
)
@settings(max_examples=25, deadline=None)
def test_tokens_by_other_numbers_give_the_same_graph(
    numbers: list[int], tokens: list[int], architecture: str, kind: str
) -> None:
    renamed, model = torch.tensor(numbers), tiny_model(architecture, N_LAYERS)
    embed, unembed = torch.empty_like(model.embed), torch.empty_like(model.unembed)
    embed[renamed], unembed[:, renamed] = model.embed, model.unembed
    other = replace(model, embed=embed, unembed=unembed)
    prompt = torch.tensor(tokens)
    before = graph_of(frozen_prompt(architecture, kind, prompt))
    after = graph_of(freeze(other, Replacement(DICTIONARIES[kind](other), other), renamed[prompt]))
    assert (after.features == before.features).all()
    assert after.rows == pytest.approx(before.rows, abs=1e-9)
    assert after.scalars == pytest.approx(before.scalars, abs=1e-5)
    assert [target.token for target in after.targets] == [numbers[target.token or 0] for target in before.targets]
