"""Folding into the MLP's own input: the same reconstruction from what the file reads and from what our form reads."""

from dataclasses import replace

import pytest
import torch

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats.found import Found, InputSpace
from hagd.dictionaries.formats.spaces import fold, fold_one, layer_of, space_of
from hagd.errors import InvalidInputError
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel, Norm
from unit.models.tiny_models import N_LAYERS, tiny_gpt2, tiny_llama

D_FEATURE, TOKENS = 11, 23
MODELS = {"layer": lambda: convert(tiny_gpt2()), "rms": lambda: convert(tiny_llama())}


def dictionary(d_model: int, layer: int = 0) -> Dictionary:
    draw = torch.Generator().manual_seed(layer)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return Dictionary(
        kind="gated",
        layer=layer,
        activation="relu",
        k=3,
        w_gate=tensor(d_model, D_FEATURE),
        b_gate=tensor(D_FEATURE),
        w_enc=tensor(d_model, D_FEATURE),
        b_enc=tensor(D_FEATURE),
        w_dec=tensor(D_FEATURE, d_model),
        b_dec=tensor(d_model),
        w_skip=tensor(d_model, d_model),
    )


def across(d_model: int) -> CrossLayerTranscoder:
    per_layer = [dictionary(d_model, layer) for layer in range(N_LAYERS)]
    return CrossLayerTranscoder(
        activation="relu",
        w_enc=tuple(it.w_enc for it in per_layer),
        b_enc=tuple(it.b_enc for it in per_layer),
        w_dec=tuple(it.w_dec.expand(N_LAYERS - it.layer, -1, -1) for it in per_layer),
        b_dec=tuple(it.b_dec for it in per_layer),
        w_skip=tuple(it.w_skip for it in per_layer if it.w_skip is not None),
    )


def residual(d_model: int) -> torch.Tensor:
    return 3 * torch.randn(TOKENS, d_model, generator=torch.Generator().manual_seed(7))


def without_gain(norm: Norm, resid: torch.Tensor) -> torch.Tensor:
    """Divide as the norm does, by its definition."""
    centred = resid - resid.mean(-1, keepdim=True) if norm.kind == "layer" else resid
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()


def agree(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_dictionary_of_the_normalised_residual_gives_the_same_on_the_input_of_the_mlp(kind: str) -> None:
    model = MODELS[kind]()
    norm, resid = model.blocks[1].norm_mlp, residual(model.config.d_model)
    original = dictionary(model.config.d_model, 1)
    folded = fold_one(original, "normalised", norm)
    u, x = without_gain(norm, resid), norm(resid)
    agree(folded.encode(x), original.encode(u))
    agree(folded.decode(folded.encode(x), x), original.decode(original.encode(u), u))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_cross_layer_transcoder_is_folded_by_the_norm_of_each_layer(kind: str) -> None:
    model = MODELS[kind]()
    original = across(model.config.d_model)
    folded = fold(Found("x", original, "normalised"), model)
    assert folded.space == "mlp-input" and isinstance(folded.content, CrossLayerTranscoder)
    resid = residual(model.config.d_model)
    norms = [block.norm_mlp for block in model.blocks]
    before = [original.encode(layer, without_gain(norm, resid)) for layer, norm in enumerate(norms)]
    after = [folded.content.encode(layer, norm(resid)) for layer, norm in enumerate(norms)]
    for layer, norm in enumerate(norms):
        expected = original.decode(layer, before, without_gain(norm, resid))
        agree(folded.content.decode(layer, after, norm(resid)), expected)


def folded_in(model: LanguageModel, space: InputSpace) -> Dictionary:
    content = fold(Found("x", {1: dictionary(model.config.d_model, 1)}, space), model).content
    assert isinstance(content, dict)
    return content[1]


def test_hook_normalized_of_a_layer_norm_is_refused_since_two_releases_mean_two_things_by_it() -> None:
    with pytest.raises(InvalidInputError, match=r"before its release 3\.0") as caught:
        folded_in(MODELS["layer"](), "hook-normalized")
    assert "--probe-text" in caught.value.hint


def test_hook_normalized_of_an_rms_norm_comes_without_the_gain() -> None:
    rms = MODELS["rms"]()
    assert torch.equal(folded_in(rms, "hook-normalized").w_enc, folded_in(rms, "normalised").w_enc)


def test_the_input_of_the_mlp_needs_no_folding() -> None:
    original = dictionary(7)
    norm = Norm("layer", torch.zeros(7), torch.ones(7), 1e-5)
    assert fold_one(original, "mlp-input", norm) is original


def test_the_residual_before_the_norm_is_refused_with_the_reason() -> None:
    norm = MODELS["rms"]().blocks[0].norm_mlp
    with pytest.raises(InvalidInputError, match="divides it by the length of each token's residual") as caught:
        fold_one(dictionary(len(norm.gain)), "residual", norm)
    assert "--space" in caught.value.hint


def test_a_gain_of_zero_is_refused_where_it_would_be_divided_by() -> None:
    norm = MODELS["rms"]().blocks[0].norm_mlp
    dead = replace(norm, gain=norm.gain.where(torch.arange(len(norm.gain)) != 3, 0.0))
    with pytest.raises(InvalidInputError, match="has a gain of 0"):
        fold_one(dictionary(len(norm.gain)), "normalised", dead)


def test_hook_points_are_the_two_sides_of_an_mlp() -> None:
    assert space_of("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out") == "mlp-input"
    assert space_of("hook_resid_mid", "mlp.hook_out") == "residual"
    assert layer_of("blocks.13.mlp.hook_in") == 13
    assert layer_of("mlp.hook_in") is None
    with pytest.raises(InvalidInputError, match="autoencoder"):
        space_of("hook_mlp_out", "hook_mlp_out")
