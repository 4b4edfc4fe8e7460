"""GPT-NeoX and Pythia: blocks whose attention and MLP may read the same residual, heads that rotate in part.

Queries, keys and values are one matrix, fused head by head rather than by kind as in GPT-2.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hagd.models.language_model import ModelConfig
from hagd.models.weights import owned


def read_config(config: Any) -> ModelConfig:
    """Translate a `GPTNeoXConfig`."""
    return ModelConfig(
        architecture="gpt_neox",
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_attention_heads,
        d_head=config.hidden_size // config.num_attention_heads,
        d_mlp=config.intermediate_size,
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings,
        activation=config.hidden_act,
        norm="layer",
        norm_eps=float(config.layer_norm_eps),
        rotary_base=float(config.rope_parameters["rope_theta"]),
        rotary_dims=_rotary_dims(config),
        parallel_residual=config.use_parallel_residual,
    )


def unsupported_features(config: Any) -> list[str]:
    """Name the settings of a `GPTNeoXConfig` that this conversion does not reproduce."""
    rope, dims = config.rope_parameters, _rotary_dims(config)
    refused: list[str] = []
    if rope.get("rope_type", "default") != "default":
        refused.append(f"rope_type={rope['rope_type']} (scaled rotary positions)")
    if dims < 2 or dims % 2:
        refused.append(f"partial_rotary_factor={rope['partial_rotary_factor']} (rotates {dims} dims, not in pairs)")
    return refused


def read_tensors(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split the tensors of a `GPTNeoXForCausalLM` by head. GPT-NeoX stores matrices as (output, input)."""
    tensors = {
        "embed": owned(weights["gpt_neox.embed_in.weight"]),
        "norm_final.gain": owned(weights["gpt_neox.final_layer_norm.weight"]),
        "norm_final.bias": owned(weights["gpt_neox.final_layer_norm.bias"]),
    }
    for layer in range(config.n_layers):
        prefix = f"gpt_neox.layers.{layer}."
        source = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        tensors |= {f"blocks.{layer}.{name}": owned(value) for name, value in _read_block(config, source).items()}
    return tensors


def _read_block(config: ModelConfig, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = (config.n_heads, config.d_head)
    fused = source["attention.query_key_value.weight"].unflatten(0, (config.n_heads, 3, config.d_head))
    block = {
        "norm_attention.gain": source["input_layernorm.weight"],
        "norm_attention.bias": source["input_layernorm.bias"],
        **{f"attention.w_{name}": fused[:, index].mT for index, name in enumerate("qkv")},
        "attention.w_o": source["attention.dense.weight"].T.unflatten(0, heads),
        "norm_mlp.gain": source["post_attention_layernorm.weight"],
        "norm_mlp.bias": source["post_attention_layernorm.bias"],
        "mlp.w_in": source["mlp.dense_h_to_4h.weight"].T,
        "mlp.b_in": source["mlp.dense_h_to_4h.bias"],
        "mlp.w_out": source["mlp.dense_4h_to_h.weight"].T,
        "mlp.b_out": source["mlp.dense_4h_to_h.bias"],
    }
    if (bias := source.get("attention.query_key_value.bias")) is not None:
        fused_bias = bias.unflatten(0, (config.n_heads, 3, config.d_head))
        block |= {f"attention.b_{name}": fused_bias[:, index] for index, name in enumerate("qkv")}
        block["attention.b_o"] = source["attention.dense.bias"]
    return block


def _rotary_dims(config: Any) -> int:
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return int(config.hidden_size // config.num_attention_heads * share)
