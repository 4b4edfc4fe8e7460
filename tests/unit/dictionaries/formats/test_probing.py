"""Probing: the right input space passes, a wrong one is refused and the right one named."""

from dataclasses import replace

import pytest
import torch

from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats.found import Found
from hagd.dictionaries.formats.probing import probe
from hagd.dictionaries.formats.spaces import fold
from hagd.errors import InvalidInputError
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
from unit.models.tiny_models import random_tokens, tiny_gpt2, tiny_llama

TOKENS = random_tokens(5, 11)


def strange(model: LanguageModel) -> LanguageModel:
    """Give every norm before an MLP a gain far from 1, as trained models have."""
    blocks = tuple(
        replace(block, norm_mlp=replace(block.norm_mlp, gain=4 * block.norm_mlp.gain)) for block in model.blocks
    )
    return replace(model, blocks=blocks)


def neurons(model: LanguageModel) -> Found:
    """Give what explains all of every MLP in its own input."""
    return Found("x", {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(model.blocks)}, "mlp-input")


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_an_exact_dictionary_leaves_nothing_in_its_own_space(make: type) -> None:
    model = strange(convert(make()))
    for quality in probe(neurons(model), model, TOKENS).layers:
        assert quality.fvu < 1e-8
        assert 0 < quality.l0 <= model.config.d_mlp


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_a_wrong_space_is_refused_and_the_one_that_fits_is_named(make: type) -> None:
    model = strange(convert(make()))
    with pytest.raises(InvalidInputError, match="read in the space normalised") as caught:
        probe(replace(neurons(model), space="normalised"), model, TOKENS)
    assert "of the space mlp-input: say so with --space" in caught.value.hint


def test_what_was_folded_as_if_it_were_of_another_space_is_found_out_too() -> None:
    model = strange(convert(tiny_gpt2()))
    with pytest.raises(InvalidInputError, match="read in the space mlp-input") as caught:
        probe(fold(replace(neurons(model), space="normalised"), model), model, TOKENS)
    assert caught.value.hint


def unscaled(model: LanguageModel) -> Found:
    """Give what explains all of every MLP in the normalised residual: encoders that apply gain and bias themselves."""
    content = neurons(model).content
    assert not isinstance(content, CrossLayerTranscoder)
    made = {}
    for layer, it in content.items():
        norm = model.blocks[layer].norm_mlp
        shift = 0 if norm.bias is None else norm.bias @ it.w_enc
        made[layer] = replace(it, w_enc=norm.gain[:, None] * it.w_enc, b_enc=it.b_enc + shift)
    return Found("x", made, "normalised")


def test_a_measurement_decides_what_hook_normalized_of_a_layer_norm_is() -> None:
    model = strange(convert(tiny_gpt2()))
    for found in (neurons(model), unscaled(model)):
        probed = probe(replace(found, space="hook-normalized"), model, TOKENS)
        assert probed.space == found.space
        assert all(quality.fvu < 1e-8 for quality in probed.layers)


def test_folding_undoes_what_an_encoder_of_the_normalised_residual_applies_itself() -> None:
    model = strange(convert(tiny_gpt2()))
    assert all(quality.fvu < 1e-8 for quality in probe(fold(unscaled(model), model), model, TOKENS).layers)


def test_transcoders_that_fit_nowhere_are_said_to_belong_elsewhere() -> None:
    model = strange(convert(tiny_gpt2()))
    found = neurons(model)
    assert not isinstance(found.content, CrossLayerTranscoder)
    other = {layer: replace(it, w_dec=-it.w_dec) for layer, it in found.content.items()}
    with pytest.raises(InvalidInputError, match="explain less than the mean") as caught:
        probe(replace(found, content=other), model, TOKENS)
    assert "another model" in caught.value.hint


def test_a_cross_layer_transcoder_is_measured_on_all_layers_together() -> None:
    model = strange(convert(tiny_gpt2()))
    own = [neurons_of(block.mlp, layer) for layer, block in enumerate(model.blocks)]
    zeros = [torch.zeros(len(own) - layer - 1, *it.w_dec.shape) for layer, it in enumerate(own)]
    clt = CrossLayerTranscoder(
        activation=own[0].activation,
        w_enc=tuple(it.w_enc for it in own),
        b_enc=tuple(it.b_enc for it in own),
        w_dec=tuple(torch.cat([it.w_dec[None], rest]) for it, rest in zip(own, zeros, strict=True)),
        b_dec=tuple(it.b_dec for it in own),
    )
    assert all(quality.fvu < 1e-8 for quality in probe(Found("x", clt, "mlp-input"), model, TOKENS).layers)


def test_the_first_position_does_not_count() -> None:
    model = strange(convert(tiny_gpt2()))
    again = torch.cat([random_tokens(5, 1, seed=3), TOKENS[:, 1:]], dim=1)
    with pytest.raises(InvalidInputError, match="two tokens after the first"):
        probe(neurons(model), model, again[:1, :2])
