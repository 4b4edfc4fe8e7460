"""Conversion is proved by the logits of the original, and refuses by name what it does not reproduce."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
)

from hagd.errors import InvalidInputError, UnsupportedArchitectureError
from hagd.interventions.activations import Subject, record
from hagd.models.architectures import convert, logit_difference, read_config
from hagd.models.trunk import plain_logits
from hagd.models.weights import is_tied
from unit.models.tiny_models import random_tokens, tiny_gpt2, tiny_llama, tiny_neox

ORIGINALS = {
    "gpt2": tiny_gpt2,
    "gpt2-untied": lambda: tiny_gpt2(tied=False),
    "llama-grouped": tiny_llama,
    "llama-tied-bias": lambda: tiny_llama(tied=True, bias=True),
    "llama-one-kv-head": lambda: tiny_llama(n_heads=3, n_kv_heads=1),
    "llama-ungrouped": lambda: tiny_llama(n_heads=3, n_kv_heads=3),
    "llama-scaled-positions": lambda: tiny_llama(scaled=True),
    "neox-parallel": tiny_neox,
    "neox-parallel-tied-whole-heads": lambda: tiny_neox(tied=True, rotary_share=1.0),
    "neox-parallel-without-bias": lambda: tiny_neox(bias=False),
    "neox-sequential": lambda: tiny_neox(parallel=False, rotary_share=0.5),
    "neox-sequential-tied-whole-heads": lambda: tiny_neox(parallel=False, tied=True, rotary_share=1.0),
}


@pytest.fixture(params=ORIGINALS)
def original(request) -> PreTrainedModel:
    return ORIGINALS[request.param]()


def test_a_converted_model_gives_the_originals_logits(original) -> None:
    tokens = random_tokens(5, 11)
    with torch.no_grad():
        expected = original(tokens).logits
    ours = plain_logits(convert(original), tokens)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


def test_recording_gives_the_originals_logits_at_the_answer_positions(original) -> None:
    tokens = random_tokens(5, 11)
    with torch.no_grad():
        expected = original(tokens).logits[:, [2, 10, 7]]
    ours = record(Subject(convert(original)), tokens, [2, 10, 7]).logits
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


def test_positions_matter_so_that_a_lost_rotation_would_show(original) -> None:
    tokens = random_tokens(1, 11)
    swapped = tokens[:, [1, 0, *range(2, 11)]]
    model = convert(original)
    assert (plain_logits(model, tokens)[:, -1] - plain_logits(model, swapped)[:, -1]).abs().max() > 1e-3


def test_scaled_positions_give_other_logits_than_plain_ones() -> None:
    tokens = random_tokens(5, 11)
    scaled, plain = (plain_logits(convert(tiny_llama(scaled=it)), tokens) for it in (True, False))
    assert (scaled - plain).abs().max() > 1e-3 * plain.abs().max()


def test_the_converted_weights_share_no_memory_with_the_original(original) -> None:
    model, tokens = convert(original), random_tokens(2, 7)
    before = plain_logits(model, tokens)
    with torch.no_grad():
        for weight in original.parameters():
            weight.zero_()
    assert torch.equal(plain_logits(model, tokens), before)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_one_tensor(tied) -> None:
    assert is_tied(convert(tiny_llama(tied=tied))) is tied
    assert is_tied(convert(tiny_gpt2(tied=tied))) is tied
    assert is_tied(convert(tiny_neox(tied=tied))) is tied


def test_an_unsupported_architecture_is_named_with_the_supported_ones() -> None:
    config = BloomConfig(vocab_size=23, hidden_size=12, n_layer=1, n_head=3)
    with pytest.raises(UnsupportedArchitectureError, match="'bloom' is not supported") as caught:
        convert(BloomForCausalLM(config))
    assert caught.value.hint == "use a model of one of: gpt2, gpt_neox, llama"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 10.0, "factor": 2.0}}, "rope_type=linear"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"sliding_window": 7}, "sliding_window=7"),
        ({"hidden_act": "relu2"}, "'relu2'"),
    ],
)
def test_a_llama_setting_that_is_not_reproduced_is_refused_by_name(setting, named) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=named):
        read_config(LlamaConfig(**setting))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"activation_function": "tanh"}, "'tanh'"),
    ],
)
def test_a_gpt2_setting_that_is_not_reproduced_is_refused_by_name(setting, named) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=named):
        read_config(GPT2Config(**setting))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 10.0, "factor": 2.0}}, "rope_type=linear"),
        (
            {"hidden_size": 21, "num_attention_heads": 3, "rotary_pct": 0.5},
            r"partial_rotary_factor=0\.5 \(rotates 3 dims",
        ),
        ({"hidden_size": 12, "num_attention_heads": 6, "rotary_pct": 0.25}, r"partial_rotary_factor=0\.25 \(rotates 0"),
        ({"hidden_act": "relu2"}, "'relu2'"),
    ],
)
def test_a_neox_setting_that_is_not_reproduced_is_refused_by_name(setting, named) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=named):
        read_config(GPTNeoXConfig(**setting))


def test_the_names_of_published_pythia_settings_are_understood() -> None:
    config = read_config(GPTNeoXConfig(hidden_size=512, num_attention_heads=8, rotary_pct=0.25, rotary_emb_base=777))
    assert (config.d_head, config.rotary_dims, config.rotary_base) == (64, 16, 777.0)
    assert config.parallel_residual


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "silu", "swish"])
def test_every_listed_activation_agrees_with_the_original(activation) -> None:
    config = GPT2Config(vocab_size=23, n_positions=13, n_embd=15, n_layer=1, n_head=3, activation_function=activation)
    module = GPT2LMHeadModel(config).eval()
    assert logit_difference(convert(module), module) < 1e-5


def test_a_nan_in_the_weights_is_refused_with_the_name_of_its_tensor() -> None:
    module = tiny_gpt2()
    with torch.no_grad():
        module.transformer.h[1].mlp.c_fc.weight[3, 2] = float("nan")
    with pytest.raises(InvalidInputError, match=r"'blocks\.1\.mlp\.w_in' holds NaN"):
        convert(module)


def test_a_module_that_computes_something_else_than_its_weights_say_is_refused() -> None:
    module = tiny_llama()
    module.model.layers[1].mlp.register_forward_hook(lambda _module, _inputs, output: 1.01 * output)
    with pytest.raises(InvalidInputError, match="gives other logits than the original"):
        convert(module)
